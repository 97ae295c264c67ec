// A text file, plain or gzip, in blocks of whole lines.
#pragma once
#include <cstdint>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/progress.hpp"
#include "data/readers/source_file.hpp"

namespace graphlora {

/// Memory with some lines of a file in it.
struct LineBlock {
  std::vector<char> bytes;
  std::size_t begin = 0, end = 0;
  std::int64_t position = 0;  // bytes of the file read so far

  /// Whole lines, the last one of the file with or without its end.
  std::string_view text() const { return {bytes.data() + begin, end - begin}; }
};

class LineBlocks {
 public:
  /// Longest line, and longest csv record, in bytes.
  static constexpr std::size_t kMaxLine = std::size_t{1} << 22;
  /// Bytes behind a block's text that may be read, whatever they hold.
  static constexpr std::size_t kPadding = 64;

  /// Throws DataError: missing, unreadable, no regular file, empty.
  explicit LineBlocks(const std::filesystem::path& path, bool progress = true);
  ~LineBlocks();
  LineBlocks(const LineBlocks&) = delete;
  LineBlocks& operator=(const LineBlocks&) = delete;

  /// Replaces `block` by the next one, without the file's byte-order mark; its memory serves the
  /// block after it, which a second thread reads, hashes and inflates meanwhile. Of a line longer
  /// than kMaxLine only the first kMaxLine + 1 bytes are given. False at the end of the file.
  /// Throws DataError: read error, damaged gzip.
  bool next(LineBlock& block);

  const std::filesystem::path& path() const { return path_; }
  /// {"file","bytes","sha256"}; only once next() has returned false.
  nlohmann::json describe() const { return source_.describe(); }

 private:
  LineBlock fill(LineBlock block);
  void read_ahead(LineBlock block);

  std::filesystem::path path_;
  // The other thread's while `ahead_` is under way.
  SourceFile source_;
  std::string carry_;      // begin of a line whose end is in the next block
  bool first_ = true;      // no block has been read
  bool skipping_ = false;  // in the rest of a line that is too long
  std::future<LineBlock> ahead_;
  Progress progress_;
};

}  // namespace graphlora
