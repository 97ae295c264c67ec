// Tokenizes for fuzz_tokenizer.py, compare_tokenizers.py and benchmarks/tokenizer_speed.
//   tokenizer_cli DIR            stdin: texts, each u32 length and bytes; stdout: for each u32
//   count,
//                                i32 ids, u32 length and bytes of the decoded text
//   tokenizer_cli DIR --time N   stdin as above; stdout: seconds of the fastest of N runs over all
//                                texts, one thread, as text
//   tokenizer_cli DIR --bos        stdout: the BOS id, or none, as text
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <limits>

#include "core/error.hpp"
#include "data/tokenizer.hpp"

namespace graphlora {
namespace {

std::vector<std::string> read_texts() {
  const std::string input((std::istreambuf_iterator<char>(std::cin)), {});
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < input.size();) {
    std::uint32_t size = 0;
    if (input.size() - at < sizeof(size)) throw DataError("stdin: truncated length");
    std::memcpy(&size, input.data() + at, sizeof(size));
    at += sizeof(size);
    if (input.size() - at < size) throw DataError("stdin: truncated text");
    texts.push_back(input.substr(at, size));
    at += size;
  }
  return texts;
}

template <class T>
void append(std::string& output, const T* data, std::size_t size) {
  const auto count = static_cast<std::uint32_t>(size);
  output.append(reinterpret_cast<const char*>(&count), sizeof(count));
  output.append(reinterpret_cast<const char*>(data), size * sizeof(T));
}

int run(const std::vector<std::string>& arguments) {
  const Tokenizer tokenizer(arguments.at(0));
  if (arguments.size() == 2 && arguments[1] == "--bos") {
    std::cout << (tokenizer.bos() ? std::to_string(*tokenizer.bos()) : "none") << "\n";
    return 0;
  }
  const std::vector<std::string> texts = read_texts();
  if (arguments.size() == 3 && arguments[1] == "--time") {
    double best = std::numeric_limits<double>::infinity();
    for (int run = 0; run < std::stoi(arguments[2]); ++run) {
      const auto start = std::chrono::steady_clock::now();
      std::size_t tokens = 0;
      for (const std::string& text : texts) tokens += tokenizer.encode(text).size();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      if (tokens > 0) best = std::min(best, seconds.count());
    }
    std::printf("%.9f\n", best);
    return 0;
  }
  std::string output;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text);
    const std::string decoded = tokenizer.decode(ids);
    append(output, ids.data(), ids.size());
    append(output, decoded.data(), decoded.size());
  }
  std::fwrite(output.data(), 1, output.size(), stdout);
  return 0;
}

}  // namespace
}  // namespace graphlora

int main(int argc, char** argv) try {
  return graphlora::run({argv + 1, argv + argc});
} catch (const graphlora::Error& error) {
  std::cerr << error.what() << "\n";
  return static_cast<int>(error.code());
}
