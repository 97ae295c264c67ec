// Amazon's layouts of 2014, 2018 and 2023, plain and gzip, Python literals, and hostile files.
#include <gtest/gtest.h>
#include <zlib.h>

#include <random>
#include <stdexcept>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/dataset.hpp"
#include "data/dataset_writer.hpp"
#include "data/readers/line_reader.hpp"
#include "data/readers/python_literal.hpp"
#include "data/readers/reader.hpp"
#include "data/readers/source_file.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

using Lines = std::vector<std::string>;

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

RawRatings read(const TemporaryDirectory& folder, ReadConfig config = {}) {
  config.input = folder.path();
  config.progress = false;
  return read_amazon(config);
}

/// "user item rating time title" per row, as read.
Lines lines_of(const RawRatings& raw) {
  Lines out;
  for (std::int64_t i = 0; i < raw.rows(); ++i) {
    const auto item = static_cast<std::size_t>(raw.item[i]);
    out.push_back(fmt::format("{} {} {} {} {}", raw.users[raw.user[i]], raw.items[raw.item[i]],
                              raw.rating[i], raw.time[i],
                              item < raw.titles.size() ? raw.titles[item] : ""));
  }
  return out;
}

template <class Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DataError";
  return {};
}

std::string message_of(const TemporaryDirectory& folder, const ReadConfig& config = {}) {
  return message_of([&] { read(folder, config); });
}

const std::string k2014 =
    R"({"reviewerID": "A10", "asin": "000100039X", "reviewerName": "Adam \"A\"", "helpful": [0, 1], "reviewText": "Spiritually, \u00e9 {\"asin\": \"no\"}", "overall": 5.0, "summary": "A \\", "unixReviewTime": 1355616000, "reviewTime": "12 16, 2012"}
{"reviewerID": "A1N", "asin": "000100039X", "overall": 3.0, "unixReviewTime": 1071100800}
{"unixReviewTime": 1090000000, "overall": 4, "asin": "0002051850", "reviewerID": "A10"}
)";
const std::string kMeta2014 =
    R"({'asin': '000100039X', 'salesRank': {'Books': 6334800}, 'imUrl': 'http://x/I/5.jpg', 'related': {'also_viewed': ['1', '2']}, 'categories': [['Books', u'Caf\xe9']], 'title': 'The Prophet &amp; "more"'}
{'title': "Don't", 'asin': '0002051850', 'description': None}
{'asin': 'unknown', 'title': 'Nobody bought it'}
)";
const Lines kRows2014{"A10 000100039X 5 1355616000 The Prophet &amp; \"more\"",
                      "A1N 000100039X 3 1071100800 The Prophet &amp; \"more\"",
                      "A10 0002051850 4 1090000000 Don't"};

const std::string k2023 =
    R"({"rating": 5.0, "title": "Such a scent", "text": "x", "images": [{"small": "u"}], "asin": "B00Y", "parent_asin": "B00P", "user_id": "AGK", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": true}
{"rating": 2.0, "parent_asin": "B00P", "asin": "B00Z", "user_id": "AGL", "timestamp": 1588687728924}
{"rating": 1.0, "parent_asin": "B00Y", "asin": "B00Z", "user_id": "AGK", "timestamp": 978307200000}
)";
const std::string kMeta2023 =
    R"({"main_category": "All Beauty", "title": "Spray\t by  Herbivore", "average_rating": 4.8, "details": {"title": "no", "asin": "no"}, "parent_asin": "B00P", "bought_together": null}
{"title": null, "parent_asin": "B00Y"}
)";

TEST(ReadAmazon, Layout2014WithPythonMetadata) {
  TemporaryDirectory folder;
  folder.write("reviews_Books_5.json", k2014);
  folder.write("meta_Books.json", kMeta2014);
  const RawRatings raw = read(folder);
  EXPECT_EQ(lines_of(raw), kRows2014);
  EXPECT_EQ(raw.kind, RatingKind::rating);
  EXPECT_EQ(raw.items.size(), 2);
  ASSERT_EQ(raw.sources.size(), 2);
  EXPECT_EQ(raw.sources[0]["file"], "reviews_Books_5.json");
  EXPECT_EQ(raw.sources[0]["sha256"], sha256(k2014));
  EXPECT_EQ(raw.sources[1]["bytes"], kMeta2014.size());
  EXPECT_EQ(find_format("amazon").label_above, 4);
}

TEST(ReadAmazon, Layout2018) {
  TemporaryDirectory folder;
  folder.write(
      "Books_5.json",
      "\xEF\xBB\xBF{\"overall\": 5.0, \"verified\": true, \"reviewTime\": \"03 30, 2005\", "
      "\"reviewerID\": \"A1\", \"asin\": \"000171287X\", \"style\": {\"Format:\": \" "
      "Hardcover\", \"asin\": \"no\"}, \"vote\": \"2\", \"unixReviewTime\": 1112140800}\r\n"
      "\n"
      "{\"overall\":1,\"reviewerID\":\"A2\",\"asin\":\"1\",\"unixReviewTime\":1112140801}");
  folder.write("meta_Books.json",
               "{\"category\": [\"Books\"], \"title\": \"Zo\\u00eb \\ud83d\\ude00\", \"also_buy\": "
               "[], \"asin\": \"000171287X\"}\n");
  EXPECT_EQ(lines_of(read(folder)),
            (Lines{"A1 000171287X 5 1112140800 Zoë 😀", "A2 1 1 1112140801 "}));
}

TEST(ReadAmazon, Layout2023JoinsOnTheParentAndKeepsMilliseconds) {
  TemporaryDirectory folder;
  folder.write("All_Beauty.jsonl", k2023);
  folder.write("meta_All_Beauty.jsonl", kMeta2023);
  ReadConfig config;
  EXPECT_EQ(lines_of(read(folder)),
            (Lines{"AGK B00P 5 1588687728923 Spray by Herbivore",
                   "AGL B00P 2 1588687728924 Spray by Herbivore", "AGK B00Y 1 978307200000 "}));
  config.years = YearRange(2001, 2001);
  const RawRatings raw = read(folder, config);
  EXPECT_EQ(lines_of(raw), (Lines{"AGK B00Y 1 978307200000 "}));
  EXPECT_EQ(raw.outside_years, 2);
  EXPECT_EQ(raw.users.size(), 1);  // ids of rows outside take no memory
}

TEST(ReadAmazon, GzipByItsBytesNotItsName) {
  TemporaryDirectory folder;
  const std::string packed = gzip(k2014);
  folder.write("reviews_Books_5.json.gz", packed);
  folder.write("meta_Books.json", gzip(kMeta2014));  // gzip without saying so
  const RawRatings raw = read(folder);
  EXPECT_EQ(lines_of(raw), kRows2014);
  EXPECT_EQ(raw.sources[0]["bytes"], packed.size());
  EXPECT_EQ(raw.sources[0]["sha256"], sha256(packed));

  folder.write("reviews_Books_5.json.gz", k2014);  // plain in spite of its name
  EXPECT_EQ(lines_of(read(folder)), kRows2014);
  // Several members, one of them empty, cut within a line.
  folder.write("reviews_Books_5.json.gz",
               gzip(k2014.substr(0, 100)) + gzip("") + gzip(k2014.substr(100)));
  EXPECT_EQ(lines_of(read(folder)), kRows2014);
}

TEST(ReadAmazon, ManyBlocksOfText) {
  // Lines across blocks, and members that end on and beside their boundaries.
  TemporaryDirectory folder;
  std::string text;
  Lines expected;
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    const std::string filler(random() % 3000, "ab{\x09"[i % 3]);
    text +=
        fmt::format(
            R"({{"reviewerID":"u{}","reviewText":"{}","asin":"i{}","overall":{},"unixReviewTime":{}}})",
            i % 7, filler, i, i % 5 + 1, i) +
        "\n";
    expected.push_back(fmt::format("u{} i{} {} {} ", i % 7, i, i % 5 + 1, i));
  }
  ASSERT_GT(text.size(), std::size_t{3} << 20);
  ReadConfig config;
  config.amazon.metadata = "none";
  for (const std::string& bytes :
       {text, gzip(text), gzip(text.substr(0, 1 << 20)) + gzip(text.substr(1 << 20))}) {
    folder.write("X.json", bytes);
    const RawRatings raw = read(folder, config);
    EXPECT_EQ(lines_of(raw), expected);
    EXPECT_EQ(raw.sources[0]["sha256"], sha256(bytes));
  }
}

TEST(ReadAmazon, BlocksKeepTheFilesOrder) {
  // Several threads parse: lines, limits and the unit of the times are still the file's.
  TemporaryDirectory folder;
  const auto row = [](int i, std::int64_t time) {
    return fmt::format(
               R"({{"reviewerID":"u{}","asin":"i{}","overall":5,"unixReviewTime":{},"x":"{}"}})", i,
               i % 7, time, std::string(1000 + i % 100, 'x')) +
           "\n";
  };
  constexpr int kRows = 20000;  // of 1 KiB
  std::string text;
  Lines expected, errors;
  std::mt19937 random(2);
  for (int i = 0; i < kRows; ++i) {
    // Blocks that are all in milliseconds, some that are partly, and other faults between them.
    const bool milliseconds = i >= 100 && i / 1500 % 3 == 1;
    const auto fault = [&](const std::string& what) {
      errors.push_back(fmt::format("{}:{}: {}", (folder / "X.json").string(), i + 1, what));
    };
    if (random() % 100 == 0) {
      text += "{}\n";
      fault("has no user (reviewerID or user_id); check --format");
    } else if (milliseconds) {
      text += row(i, kFirstMilliseconds + i);
      fault(
          fmt::format("the time {} is in milliseconds, the rows before are in seconds; give all "
                      "times in one unit",
                      kFirstMilliseconds + i));
    } else {
      text += row(i, i);
      expected.push_back(fmt::format("u{} i{} 5 {} ", i, i % 7, i));
    }
  }
  ASSERT_GT(errors.size(), kRows / 4);
  ReadConfig config;
  config.amazon.metadata = "none";
  config.max_bad_lines = static_cast<std::int64_t>(errors.size());
  folder.write("X.json", text);
  const RawRatings raw = read(folder, config);
  EXPECT_EQ(lines_of(raw), expected);
  EXPECT_EQ(raw.bad_lines.count(), config.max_bad_lines);
  EXPECT_EQ(raw.bad_lines.examples(), Lines(errors.begin(), errors.begin() + 5));
  for (const std::size_t limit : {std::size_t{0}, std::size_t{7}, errors.size() - 1}) {
    config.max_bad_lines = static_cast<std::int64_t>(limit);
    EXPECT_TRUE(message_of(folder, config).starts_with(errors[limit])) << limit;
  }
  // Damage behind a bad line, already read when that is parsed: the first fault in the file counts.
  const std::string packed = gzip(text);
  folder.write("X.json", packed.substr(0, packed.size() - 1));
  config.max_bad_lines = 0;
  EXPECT_TRUE(message_of(folder, config).starts_with(errors[0]));
  config.max_bad_lines = kRows;
  EXPECT_NE(message_of(folder, config).find("the gzip data ends early"), std::string::npos);
}

TEST(ReadAmazon, ZerosBehindTheLastGzipMemberAreTheEnd) {
  TemporaryDirectory folder;
  folder.write("meta_Books.json", kMeta2014);
  const std::string packed = gzip(k2014);
  for (const std::size_t zeros : {1, 511, 1 << 20}) {
    const std::string padded = packed + std::string(zeros, '\0');
    folder.write("reviews_Books_5.json.gz", padded);
    const RawRatings raw = read(folder);
    EXPECT_EQ(lines_of(raw), kRows2014);
    EXPECT_EQ(raw.sources[0]["sha256"], sha256(padded));
    for (const std::string& more : {std::string("x"), packed}) {
      folder.write("reviews_Books_5.json.gz", padded + more);
      EXPECT_NE(message_of(folder).find("gzip data is damaged"), std::string::npos) << zeros;
    }
  }
}

TEST(ReadAmazon, ATitleThatIsNoTextIsMissing) {
  TemporaryDirectory folder;
  folder.write("Books.json", R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7}
{"reviewerID":"A","asin":"C","overall":5,"unixReviewTime":8}
)");
  const std::string good =
      "\n"
      R"({"asin":"C","title":"fine \ud83d\ude00"})"
      "\n";
  for (const char* line : {R"({"asin":"B","title":"cut emoji \ud83d","brand":"b"})",
                           R"({"title":"\ude00 cut","asin":"B"})"}) {
    folder.write("meta_Books.json", line + good);
    const RawRatings raw = read(folder);
    EXPECT_EQ(lines_of(raw), (Lines{"A B 5 7 ", "A C 5 8 fine 😀"})) << line;
    EXPECT_EQ(raw.bad_lines.count(), 0);
  }
  folder.write("meta_Books.json", R"({"asin":"B\ud83d","title":"t"})" + good);
  EXPECT_NE(message_of(folder).find("meta_Books.json:1: is no JSON"), std::string::npos);
}

TEST(ReadAmazon, DamagedGzip) {
  TemporaryDirectory folder;
  const std::string packed = gzip(k2014);
  ReadConfig config;
  config.amazon.metadata = "none";
  config.max_bad_lines = 1000;
  for (std::size_t size = 2; size < packed.size(); ++size) {
    SCOPED_TRACE(size);
    const auto path = folder.write("X.json.gz", packed.substr(0, size));
    const std::string message = message_of(folder, config);
    EXPECT_TRUE(message.starts_with(path.string() + ": the gzip data ends early")) << message;
  }
  std::string flipped = packed;
  flipped[packed.size() - 6] ^= 1;  // in the checksum
  folder.write("X.json.gz", flipped);
  EXPECT_NE(message_of(folder, config).find("gzip data is damaged"), std::string::npos);
  folder.write("X.json.gz", packed + "garbage");
  EXPECT_NE(message_of(folder, config).find("gzip data is damaged"), std::string::npos);
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {  // never anything but an error or good rows
    std::string bytes = packed;
    bytes[10 + random() % (bytes.size() - 10)] ^= static_cast<char>(1 << random() % 8);
    folder.write("X.json.gz", bytes);
    EXPECT_NE(message_of(folder, config), "");
  }
}

TEST(ReadAmazon, BadLinesAreCountedShownAndStopTheRun) {
  TemporaryDirectory folder;
  const std::string good = R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7})";
  const std::vector<std::pair<std::string, std::string>> bad{
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7)", "no JSON object"},
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7} {})", "more than one"},
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7, "reviewText": "cut of)",
       "no JSON"},
      {R"(["reviewerID","A"])", "no JSON object"},
      {"17", "no JSON object"},
      {"null", "no JSON object"},
      {"{}", "has no user (reviewerID or user_id)"},
      {"   ", "no JSON object"},
      {R"({"reviewerID":"A","overall":5,"unixReviewTime":7})", "has no item"},
      {R"({"reviewerID":"A","asin":"B","unixReviewTime":7})", "has no rating"},
      {R"({"reviewerID":"A","asin":"B","overall":5})", "has no time"},
      {R"({"reviewerID":null,"asin":"B","overall":5,"unixReviewTime":7})", "has no user"},
      {R"({"reviewerID":["A"],"asin":"B","overall":5,"unixReviewTime":7})",
       "'reviewerID' is neither"},
      {R"({"reviewerID":true,"asin":"B","overall":5,"unixReviewTime":7})",
       "'reviewerID' is neither"},
      {R"({"reviewerID":"","asin":"B","overall":5,"unixReviewTime":7})", "user id is empty"},
      {R"({"reviewerID":"A\u0000","asin":"B","overall":5,"unixReviewTime":7})",
       "control character"},
      {R"({"reviewerID":"\ud800","asin":"B","overall":5,"unixReviewTime":7})", "no JSON object"},
      {"{\"reviewerID\":\"\xff\",\"asin\":\"B\",\"overall\":5,\"unixReviewTime\":7}",
       "no JSON object"},
      {R"({"reviewerID":"A","asin":"B","overall":"good","unixReviewTime":7})", "rating 'good'"},
      {R"({"reviewerID":"A","asin":"B","overall":1e99,"unixReviewTime":7})", "rating '1e99'"},
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":-7})", "out of range"},
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":1588687728923})",
       "in milliseconds"},
      {R"({"reviewerID":"A","asin":"B","overall":5,"unixReviewTime":7,,})", "no JSON object"},
      {R"({'reviewerID':'A','asin':'B','overall':5,'unixReviewTime':__import__('os')})",
       "no Python literal"},
      {R"({'reviewerID':'A','asin':'B)", "never closed"},
      {std::string("{\"x\": \"A\0\"}", 11), "NUL byte"},
      {std::string(LineReader::kMaxLine + 5, '{'), "longer than"},
      {std::string(100000, '['), "no JSON object"},
      {R"({"reviewerID":"A","x":)" + std::string(100000, '['), "no JSON object"},
      {R"({"x":)" + std::string(100000, '[') + "}", "no JSON object"},
      {R"({"x":)" + std::string(100000, '{') + std::string(100001, '}'), "has no user"},
      {"{'x':" + std::string(100000, '(') + "}", "no JSON object"},
  };
  const auto path = folder / "X.json";
  ReadConfig config;
  config.amazon.metadata = "none";
  std::string all = good + "\n";
  for (const auto& [line, why] : bad) {
    const std::string shown = line.substr(0, 100);
    SCOPED_TRACE(shown);
    folder.write("X.json", good + "\n" + line + "\n" + good + "\n");
    config.max_bad_lines = 0;
    const std::string stopped = message_of(folder, config);
    EXPECT_TRUE(stopped.starts_with(path.string() + ":2: ")) << stopped;
    EXPECT_NE(stopped.find(why), std::string::npos) << stopped;
    EXPECT_EQ(stopped.find('\n'), std::string::npos) << stopped;
    config.max_bad_lines = 1;
    const RawRatings raw = read(folder, config);
    EXPECT_EQ(raw.rows(), 2);
    EXPECT_EQ(raw.bad_lines.count(), 1);
    EXPECT_EQ(raw.bad_lines.examples(), Lines{stopped});
    all += line + "\n" + good + "\n";
  }
  folder.write("X.json", all);
  const auto count = static_cast<std::int64_t>(bad.size());
  config.max_bad_lines = count;
  EXPECT_EQ(read(folder, config).rows(), count + 1);
  config.max_bad_lines = count - 1;
  EXPECT_NE(message_of(folder, config).find("--max-bad-lines allows"), std::string::npos);
}

TEST(ReadAmazon, RandomBytesNeverCrash) {
  TemporaryDirectory folder;
  ReadConfig config;
  config.max_bad_lines = 1'000'000;
  config.amazon.metadata = folder / "m";
  std::mt19937 random(5);
  const std::string seeds[] = {k2014, kMeta2014, k2023, kMeta2023};
  std::int64_t rows = 0, bad = 0;
  for (int i = 0; i < 500; ++i) {
    std::string text = seeds[i % 4];
    for (int n = 1 + static_cast<int>(random() % 6); n > 0; --n) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text[at] = "{}[]()'\"\\:,ux0N"[random() % 16];
          break;
        case 2:
          text.erase(at, 1 + random() % 20);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 30));
      }
      if (text.empty()) text = "{";
    }
    folder.write("X.json", text);
    folder.write("m", text);
    const RawRatings raw = read(folder, config);
    rows += raw.rows(), bad += raw.bad_lines.count();
  }
  EXPECT_GT(rows, 200);
  EXPECT_GT(bad, 200);
}

TEST(ReadAmazon, FilesAreFoundByTheirNames) {
  using Names = std::vector<std::string>;
  const auto sources = [](const Names& names, const AmazonFiles& files = {}) {
    TemporaryDirectory folder;
    for (const std::string& name : names)
      folder.write(name, name.starts_with("meta") ? kMeta2014 : k2014);
    ReadConfig config;
    config.amazon = files;
    if (!files.reviews.empty()) config.amazon.reviews = folder / files.reviews.string();
    if (!files.metadata.empty() && files.metadata != "none")
      config.amazon.metadata = folder / files.metadata.string();
    Names found;
    try {
      for (const auto& source : read(folder, config).sources) found.push_back(source["file"]);
    } catch (const DataError& error) {
      found.push_back(error.what());
    }
    return found;
  };
  for (const Names& names : {Names{"reviews_Books_5.json.gz", "meta_Books.json.gz"},
                             {"reviews_Books.json", "meta_Books.json.gz"},
                             {"Books.json.gz", "meta_Books.json.gz"},
                             {"Books_5.json", "meta_Books.json"},
                             {"Books.jsonl", "meta_Books.jsonl"},
                             {"CDs_and_Vinyl.jsonl.gz", "meta_CDs_and_Vinyl.jsonl"}}) {
    Names more = names;
    more.insert(more.end(), {"README.txt", ".hidden.json", "meta_Music.json"});
    EXPECT_EQ(sources(more), names);
  }
  const auto refused = [&](const Names& names, const std::string& why,
                           const AmazonFiles& files = {}) {
    const Names found = sources(names, files);
    ASSERT_EQ(found.size(), 1);
    EXPECT_NE(found.front().find(why), std::string::npos) << found.front();
  };
  refused({"Books.json", "Books_5.json", "meta_Books.json"},
          "several files that may be the reviews (Books.json, Books_5.json); name one with");
  refused({"meta_Books.json"}, "has no file of reviews");
  refused({"Books.json"}, "no file has the titles of Books.json (here: no meta_*)");
  refused({"Books.json", "meta_Music.json"}, "(here: meta_Music.json); name one with");
  refused({"Books.json", "meta_Books.json", "meta_Books.json.gz"}, "more than one file has");
  refused({"Books.json"}, "there is no such file", {.metadata = "meta_x"});
  refused({"Books.json"}, "there is no such file", {.reviews = "x", .metadata = "none"});

  EXPECT_EQ(sources({"Books.json"}, {.metadata = "none"}), Names{"Books.json"});
  EXPECT_EQ(sources({"Books.json", "Books_5.json", "meta_Books.json"}, {.reviews = "Books_5.json"}),
            (Names{"Books_5.json", "meta_Books.json"}));
  EXPECT_EQ(sources({"Books.json", "meta_A.json"}, {.metadata = "meta_A.json"}),
            (Names{"Books.json", "meta_A.json"}));
  EXPECT_EQ(sources({"a", "meta"}, {.reviews = "a", .metadata = "meta"}), (Names{"a", "meta"}));

  ReadConfig config;
  config.input = "/nowhere";
  EXPECT_NE(
      message_of([&] { read_amazon(config); }).find("/nowhere: cannot be read as a directory"),
      std::string::npos);
}

TEST(PrepareAmazon, TitlesActivityAndYearsReachTheDataset) {
  TemporaryDirectory folder;
  std::string reviews;
  const auto add = [&](const std::string& user, const std::string& item, int rating,
                       std::int64_t time) {
    reviews += fmt::format(
                   R"({{"user_id":"{}","asin":"x","parent_asin":"{}","rating":{},"timestamp":{}}})",
                   user, item, rating, time) +
               "\n";
  };
  constexpr std::int64_t k2017 = 1483228800000;
  for (int u = 0; u < 4; ++u)
    for (int i = 0; i < 4; ++i)
      add(fmt::format("u{}", u), fmt::format("i{}", i), 4 + i % 2, k2017 + 10 * i + u);
  add("u0", "i1", 2, k2017 + 100);  // again: the last counts
  add("rare", "i0", 5, k2017 + 101);
  add("rare", "i0", 5, k2017 + 102);  // again: one row, not two
  add("u0", "old", 5, k2017 - 1);
  folder.write("B.jsonl", reviews);
  folder.write("meta_B.jsonl", R"({"parent_asin":"i0","title":"Zero"})");
  ReadConfig config;
  config.years = YearRange(2017, 2018);
  PrepareConfig prepare;
  prepare.label_above = find_format("amazon").label_above;
  prepare.activity = {2, "single"};
  const nlohmann::json description = write_dataset(folder / "out", read(folder, config), prepare);
  EXPECT_EQ(description["users"], 4);
  EXPECT_EQ(description["items"], 4);
  EXPECT_EQ(description["duplicates"], 2);
  EXPECT_EQ(description["missing_titles"], 3);
  EXPECT_EQ(description["years"],
            (nlohmann::json{{"first", 2017}, {"last", 2018}, {"dropped", 1}}));
  EXPECT_EQ(description["activity"],
            (nlohmann::json{{"minimum", 2}, {"rule", "single"}, {"dropped", 1}}));
  EXPECT_EQ(description["liked"]["train"].get<int>() + description["liked"]["valid"].get<int>() +
                description["liked"]["test"].get<int>(),
            7);
  const Dataset dataset(folder / "out");
  EXPECT_EQ(dataset.title(0), "Zero");
  EXPECT_EQ(dataset.title(1), "i1");

  prepare.activity.minimum = 5;
  EXPECT_NE(message_of([&] {
              write_dataset(folder / "no", read(folder, config), prepare);
            }).find("lower --min-activity"),
            std::string::npos);
  config.years = YearRange(1990, 1991);
  EXPECT_NE(message_of([&] {
              write_dataset(folder / "no", read(folder, config), prepare);
            }).find("none of the 20 rows is of the years 1990 to 1991"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "no"));
}

std::string json_of(const std::string& literal) {
  std::string json;
  python_literal_to_json(literal, json);
  return json;
}

TEST(PythonLiteral, BecomesTheJsonOfTheSameValue) {
  // Literal and json.dumps(ast.literal_eval(literal)), but for Python 2's bytes.
  const std::vector<std::pair<std::string, std::string>> cases{
      {R"({'a': True, 'b': False, u'c': None})", R"({"a": true, "b": false, "c": null})"},
      {R"({'a': (1, -2.5e3, +4), 'b': (1,), 'c': (), 'd': [[], {}]})",
       R"({"a": [1, -2500.0, 4], "b": [1], "c": [], "d": [[], {}]})"},
      {R"({'a': "it's", 'b': 'say "hi"', 'c': 'it\'s', 'd': "a\"b"})",
       R"({"a": "it's", "b": "say \"hi\"", "c": "it's", "d": "a\"b"})"},
      {R"({'a': '\\ \n\r\t\a\b\f\v \x41\x00 \101\0 \q /'})",
       R"({"a": "\\ \n\r\t\u0007\b\f\u000b A\u0000 A\u0000 \\q /"})"},
      {R"({u'a': u'caf\xe9 \u20ac \U0001f600 \xc3\xa9'})",
       R"({"a": "caf\u00e9 \u20ac \ud83d\ude00 \u00c3\u00a9"})"},
      {R"({'a': 'caf\xe9', 'b': 'é\xa0x'})", R"({"a": "caf\u00e9", "b": "\u00e9\u00a0x"})"},
      {R"({'a': 'caf\xc3\xa9', 'b': '\xe4\xb8\x83'})", R"({"a": "caf\u00e9", "b": "\u4e03"})"},
      {R"({'rank': 6334800L, 'x': 'None, True'})", R"({"rank": 6334800, "x": "None, True"})"},
      {"{'a': 'tab\there', 'b': '\x7f'}", R"({"a": "tab\there", "b": "\u007f"})"},
      {"  { 'a' : 1 , }", R"({"a": 1})"},
  };
  for (const auto& [literal, json] : cases) {
    EXPECT_TRUE(is_python_literal(literal)) << literal;
    std::string got = json_of(literal);
    // JSON has no "+4"; nothing Python writes has it either.
    if (const std::size_t plus = got.find("+4"); plus != std::string::npos) got.erase(plus, 1);
    EXPECT_EQ(nlohmann::json::parse(got), nlohmann::json::parse(json)) << literal << '\n' << got;
  }
  for (const char* json : {R"({"a": 'x'})", "{}", "{", "", "[1]", "'a'", R"({u: 1})"})
    EXPECT_FALSE(is_python_literal(json)) << json;
}

TEST(PythonLiteral, RefusesWhatIsNone) {
  for (const std::string literal :
       {"{'a': open('x')}", "{'a': lambda: 1}", "{'a': b'x'}", "{'a': nan}", "{'a",
        R"({'a': '\x4'})", R"({'a': '\xzz'})", R"({'a': '\u12'})", R"({'a': '\U00110000'})",
        R"({'a': '\N{DASH}'})", R"({'a': '\)", R"({'a': '\')", R"({'a': '\x)", "{'a': Trueish}",
        "{'a': 1; 'b': 2}", "{'a': u}", "{'a': 'x'!}", "{'a': `1`}", "{'a': \xff}"})
    EXPECT_THROW(json_of(literal), std::invalid_argument) << literal;
}

}  // namespace
}  // namespace graphlora
