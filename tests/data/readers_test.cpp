// Every format read against what its file says, and hostile files: each is refused with a message
// that starts FILE:LINE: and leaves no output behind.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <random>

#include "core/error.hpp"
#include "core/file.hpp"
#include "data/dataset_writer.hpp"
#include "data/readers/csv_table.hpp"
#include "data/readers/fields.hpp"
#include "data/readers/reader.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {
namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

void write_all(const TemporaryDirectory& folder, const Files& files) {
  for (const auto& [name, text] : files) folder.write(name, text);
}

RawRatings read(const TemporaryDirectory& folder, const std::string& format,
                const CsvColumns& csv = {}, const std::string& input = "") {
  ReadConfig config{input.empty() ? folder.path() : folder / input, csv, false};
  return find_format(format).read(config);
}

/// "user item rating time title" per row, as read.
std::vector<std::string> lines_of(const RawRatings& raw) {
  std::vector<std::string> out;
  for (std::int64_t i = 0; i < raw.rows(); ++i) {
    const std::int32_t item = raw.item[i];
    const std::string title =
        static_cast<std::size_t>(item) < raw.titles.size() ? raw.titles[item] : "";
    out.push_back(fmt::format("{} {} {} {} {}", raw.users[raw.user[i]], raw.items[item],
                              raw.rating[i], raw.time[i], title));
  }
  return out;
}

using Lines = std::vector<std::string>;

TEST(ReadMovielens100k, RatingsAndLatin1Titles) {
  TemporaryDirectory folder;
  write_all(folder, {{"u.data", "196\t242\t3\t881250949\n186\t302\t4\t891717742\r\n196\t1\t1\t5\n"},
                     {"u.item",
                      "242|Kolya (1996)|24-Jan-1997||http://x|0|0\n"
                      "302|Mis\xe9rables, Les (1995)|01-Jan-1995||x|0\n999|Unseen|||\n"}});
  const RawRatings raw = read(folder, "movielens-100k");
  EXPECT_EQ(lines_of(raw), (Lines{"196 242 3 881250949 Kolya (1996)",
                                  "186 302 4 891717742 Misérables, Les (1995)", "196 1 1 5 "}));
  EXPECT_EQ(raw.items.size(), 3);
  ASSERT_EQ(raw.sources.size(), 2);
  EXPECT_EQ(raw.sources[0]["file"], "u.data");
  EXPECT_EQ(raw.sources[0]["sha256"], sha256(read_file(folder / "u.data")));
  EXPECT_EQ(raw.sources[1]["bytes"], fs::file_size(folder / "u.item"));
}

TEST(ReadMovielens100k, TitlesThatAreUtf8StayUtf8) {
  TemporaryDirectory folder;
  write_all(folder, {{"u.data", "1\t1\t3\t1\n1\t2\t3\t2\n"},
                     {"u.item", "1|Am\xc3\xa9lie|\n2|Am\xe9lie|\n"}});
  EXPECT_EQ(lines_of(read(folder, "movielens-100k")), (Lines{"1 1 3 1 Amélie", "1 2 3 2 Amélie"}));
}

TEST(ReadMovielens1m, DoubleColons) {
  TemporaryDirectory folder;
  write_all(folder, {{"ratings.dat", "1::1193::5::978300760\n1::661::3.5::978302109"},
                     {"movies.dat",
                      "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n"
                      "661::Alien:: Resurr\xe9"
                      "ction::Action|Sci-Fi\n"}});
  EXPECT_EQ(lines_of(read(folder, "movielens-1m")),
            (Lines{"1 1193 5 978300760 One Flew Over the Cuckoo's Nest (1975)",
                   "1 661 3.5 978302109 Alien:: Resurréction"}));
}

TEST(ReadMovielensCsv, BothHeaderStylesAndQuotedTitles) {
  const std::string movies =
      "1,\"American President, The (1995)\",Comedy|Drama\r\n"
      "2,\"\"\"Great Performances\"\" Cats (1998)\",(none)\r\n"
      "3,Amélie (2001),x\r\n";
  const Lines expected{"7 1 4 1112486027 American President, The (1995)",
                       "7 2 0.5 1112486028 \"Great Performances\" Cats (1998)",
                       "8 3 5 1112486029 Amélie (2001)"};
  {
    TemporaryDirectory folder;
    write_all(folder, {{"ratings.csv",
                        "userId,movieId,rating,timestamp\r\n7,1,4.0,1112486027\r\n"
                        "7,2,0.5,1112486028\r\n8,3,5.0,1112486029\r\n"},
                       {"movies.csv", "movieId,title,genres\r\n" + movies}});
    EXPECT_EQ(lines_of(read(folder, "movielens-csv")), expected);
  }
  {
    TemporaryDirectory folder;
    write_all(folder, {{"ratings.csv",
                        "user_id,item_id,rating,timestamp\n7,1,4,1112486027\n"
                        "7,2,.5,1112486028.0\n8,3,5,1112486029\n"},
                       {"movies.csv", "\xEF\xBB\xBFitem_id,title,genres\n" + movies}});
    EXPECT_EQ(lines_of(read(folder, "movielens-csv")), expected);
  }
  {  // Quoted headers, dates, other file names, other order.
    TemporaryDirectory folder;
    write_all(folder, {{"rating.csv",
                        "\"timestamp\",\"userId\",\"movieId\",\"rating\"\n"
                        "\"2005-04-02 23:53:47\",7,1,4\n\"2005-04-02T23:53:48Z\",7,2,0.5\n"
                        "\"2005-04-02 23:53:49\",8,3,5\n"},
                       {"movie.csv", "\"movieId\",\"title\",\"genres\"\n" + movies}});
    EXPECT_EQ(lines_of(read(folder, "movielens-csv")), expected);
  }
}

TEST(ReadCsv, NamedColumnsAndTitlesFile) {
  TemporaryDirectory folder;
  write_all(folder,
            {{"r.tsv", "stars\tsku\twho\twhen\n4.5\tA-1\tzoë\t100\n2\tB 2\tbob\t50\n"},
             {"t.tsv", "name\tsku\nLamp, \"blue\"\tA-1\n\"two\nlines  and tab\t\"\tB 2\n"}});
  CsvColumns csv;
  csv.user = "who", csv.item = "sku", csv.rating = "stars", csv.time = "when", csv.title = "name",
  csv.separator = "tab", csv.titles = folder / "t.tsv";
  const RawRatings raw = read(folder, "csv", csv, "r.tsv");
  EXPECT_EQ(raw.kind, RatingKind::rating);
  EXPECT_EQ(lines_of(raw),
            (Lines{"zoë A-1 4.5 100 Lamp, \"blue\"", "bob B 2 2 50 two lines and tab"}));
  EXPECT_EQ(raw.sources.size(), 2);
}

TEST(ReadCsv, KindFollowsTheColumns) {
  TemporaryDirectory folder;
  write_all(folder, {{"rating.csv", "user,item,rating,time,title\na,x,2,1,X\na,y,5,2,\n"},
                     {"label.csv", "user,item,label,time\na,x,0,1\na,y,true,2\n"},
                     {"both.csv", "user,item,rating,liked,time\na,x,2,1,1\n"},
                     {"click.csv", "item,user,time\nx,a,2020-01-01\n"},
                     {"bare.csv", "a;x;3;1\nb;y;4;2\n"}});
  RawRatings raw = read(folder, "csv", {}, "rating.csv");
  EXPECT_EQ(raw.kind, RatingKind::rating);
  EXPECT_EQ(lines_of(raw), (Lines{"a x 2 1 X", "a y 5 2 "}));
  raw = read(folder, "csv", {}, "label.csv");
  EXPECT_EQ(raw.kind, RatingKind::label);
  EXPECT_EQ(lines_of(raw), (Lines{"a x 0 1 ", "a y 1 2 "}));
  raw = read(folder, "csv", {.label = "liked"}, "both.csv");
  EXPECT_EQ(raw.kind, RatingKind::label);
  EXPECT_EQ(lines_of(raw), Lines{"a x 1 1 "});
  raw = read(folder, "csv", {}, "click.csv");
  EXPECT_EQ(raw.kind, RatingKind::click);
  EXPECT_EQ(lines_of(raw), Lines{"a x 1 1577836800 "});
  raw = read(folder, "csv", {.rating = "none"}, "rating.csv");
  EXPECT_EQ(raw.kind, RatingKind::click);
  raw = read(
      folder, "csv",
      {.user = "1", .item = "2", .time = "4", .rating = "3", .separator = ";", .header = false},
      "bare.csv");
  EXPECT_EQ(lines_of(raw), (Lines{"a x 3 1 ", "b y 4 2 "}));
}

TEST(ReadCsv, BlanksAroundIdsDoNotCount) {
  TemporaryDirectory folder;
  folder.write("r.csv", "user, item, rating, time, title\na, x y , 5, 1, X\n a,x y,3,2,X\n");
  EXPECT_EQ(lines_of(read(folder, "csv", {}, "r.csv")), (Lines{"a x y 5 1 X", "a x y 3 2 X"}));
}

TEST(ReadCsv, TitlesInUtf8OrLatin1) {
  TemporaryDirectory folder;
  folder.write("r.csv", "user,item,rating,time,title\na,x,5,1,Caf\xc3\xa9\na,y,5,2,Caf\xe9\n");
  EXPECT_EQ(lines_of(read(folder, "csv", {}, "r.csv")), (Lines{"a x 5 1 Café", "a y 5 2 Café"}));
}

TEST(RawRatings, ATitleIsWantedOnce) {
  RawRatings raw;
  EXPECT_FALSE(raw.lacks_title("x"));  // not known
  raw.add("a", "x", 1, 1);
  raw.add("a", "y", 1, 1);
  EXPECT_TRUE(raw.lacks_title("x"));
  raw.set_title("x", "");
  EXPECT_TRUE(raw.lacks_title("x"));
  raw.set_title("x", "X");
  EXPECT_FALSE(raw.lacks_title("x"));
  EXPECT_TRUE(raw.lacks_title("y"));
  EXPECT_FALSE(raw.lacks_title("z"));
}

TEST(CsvRecords, FollowRfc4180) {
  TemporaryDirectory folder;
  folder.write("x.csv",
               "\n\"a\"\"b\",,\"\",c \"d\"\r\n\"line\r\nbreak\",\",\",\"\"\"\",z\n\nlast,1,2,3");
  CsvRecords records(folder / "x.csv", ',', false);
  std::vector<std::string_view> fields;
  const auto next = [&] {
    EXPECT_TRUE(records.next(fields));
    return std::vector<std::string>(fields.begin(), fields.end());
  };
  EXPECT_EQ(next(), (std::vector<std::string>{"a\"b", "", "", "c \"d\""}));
  EXPECT_EQ(next(), (std::vector<std::string>{"line\nbreak", ",", "\"", "z"}));
  EXPECT_EQ(records.lines().line(), 4);
  EXPECT_EQ(next(), (std::vector<std::string>{"last", "1", "2", "3"}));
  EXPECT_FALSE(records.next(fields));
}

TEST(IdTable, NumbersManyIdsInOrderOfFirstUse) {
  IdTable table;
  std::map<std::string, std::int32_t> expected;
  std::mt19937 random(1);
  for (int i = 0; i < 50000; ++i) {
    // Ids of every length, also those that begin like others.
    const std::string id = std::string(random() % 4, 'x') + std::to_string(random() % 20000);
    EXPECT_EQ(table.find(id), expected.contains(id) ? expected[id] : -1);
    const auto next = static_cast<std::int32_t>(expected.size());
    EXPECT_EQ(table.intern(id), expected.try_emplace(id, next).first->second);
  }
  ASSERT_EQ(table.size(), static_cast<std::int32_t>(expected.size()));
  for (const auto& [id, number] : expected) {
    EXPECT_EQ(table[number], id);
    EXPECT_EQ(table.find(id), number);
  }
  EXPECT_EQ(table.find(""), -1);
  EXPECT_EQ(IdTable().find("a"), -1);
}

TEST(IdTable, ManyIdsAtOnceAreNumberedAsOneByOne) {
  IdTable table, one_by_one;
  std::mt19937 random(2);
  for (const int count : {0, 1, 31, 32, 33, 5000, 64}) {
    std::vector<std::string> ids;
    for (int i = 0; i < count; ++i) ids.push_back(std::to_string(random() % 3000));
    std::vector<std::int32_t> numbers(ids.size()), expected;
    for (const std::string& id : ids) expected.push_back(one_by_one.intern(id));
    table.intern(std::vector<std::string_view>(ids.begin(), ids.end()), numbers);
    EXPECT_EQ(numbers, expected) << count;
  }
  ASSERT_EQ(table.size(), one_by_one.size());
  for (std::int32_t number = 0; number < table.size(); ++number)
    EXPECT_EQ(table[number], one_by_one[number]);
}

TEST(LineReader, LongFilesAcrossItsBuffer) {
  TemporaryDirectory folder;
  std::string text;
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < 400; ++i) {
    lengths.push_back(i * 97 % 40001);
    text += std::string(lengths.back(), static_cast<char>('a' + i % 26)) + "\n";
  }
  lengths.push_back(LineReader::kMaxLine);
  text += std::string(LineReader::kMaxLine, 'x');
  folder.write("long", text);
  LineReader reader(folder / "long", false);
  std::string_view line;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    ASSERT_TRUE(reader.next(line));
    ASSERT_EQ(line.size(), lengths[i]);
    EXPECT_EQ(line, std::string(lengths[i], i < 400 ? static_cast<char>('a' + i % 26) : 'x'));
  }
  EXPECT_FALSE(reader.next(line));
  EXPECT_EQ(reader.line(), 401);
}

/// Reads with `limit` bad lines allowed; the message of the error, if there is one.
std::string read_with_limit(const TemporaryDirectory& folder, const std::string& format,
                            const std::string& input, std::int64_t limit, RawRatings& raw) {
  try {
    raw = find_format(format).read({.input = input.empty() ? folder.path() : folder / input,
                                    .progress = false,
                                    .max_bad_lines = limit});
    return {};
  } catch (const DataError& error) {
    return error.what();
  }
}

TEST(BadLines, ArePassedOverUpToTheLimit) {
  TemporaryDirectory folder;
  const std::string huge(3 * LineReader::kMaxLine, 'x');
  folder.write("in.csv", "user,item,rating,time\na,x,5,1\na,x,bad,1\n" + huge +
                             "\nb,y,4,2\n\"a\"b,x,1,3\nb,z,1,noon\n,z,1,3\nb\nc,z,3,4\n" + huge);
  RawRatings raw;
  for (const std::int64_t limit : {7, 100}) {
    EXPECT_EQ(read_with_limit(folder, "csv", "in.csv", limit, raw), "");
    EXPECT_EQ(lines_of(raw), (Lines{"a x 5 1 ", "b y 4 2 ", "c z 3 4 "}));
    EXPECT_EQ(raw.bad_lines.count(), 7);
    const auto& examples = raw.bad_lines.examples();
    ASSERT_EQ(examples.size(), BadLines::kExamples);
    const std::string file = folder / "in.csv";
    EXPECT_TRUE(examples[0].starts_with(file + ":3: the rating 'bad'")) << examples[0];
    EXPECT_TRUE(examples[1].starts_with(file + ":4: the line is longer")) << examples[1];
    EXPECT_TRUE(examples[2].starts_with(file + ":6: column 1: text stands")) << examples[2];
    EXPECT_TRUE(examples[4].starts_with(file + ":8: the user id is empty")) << examples[4];
    // No id of a bad line is kept.
    EXPECT_EQ(raw.users.size(), 3);
    EXPECT_EQ(raw.items.size(), 3);
  }
  const std::string text = read_with_limit(folder, "csv", "in.csv", 6, raw);
  EXPECT_TRUE(text.starts_with((folder / "in.csv").string() + ":11: ")) << text;
  EXPECT_NE(text.find("malformed line 7, --max-bad-lines allows 6"), std::string::npos) << text;
}

TEST(CsvRecords, AnUnbalancedQuoteIsNotOneBadLine) {
  TemporaryDirectory folder;
  std::string rows;
  for (int i = 0; i < 2000; ++i) rows += fmt::format("u{},\"i{}\",5,1\n", i, i);
  folder.write("in.csv", "user,item,rating,time\nu,\"i,5,1\n" + rows);
  RawRatings raw;
  EXPECT_NE(read_with_limit(folder, "csv", "in.csv", 1000000, raw)
                .find("in.csv:2: a quote opened here goes on"),
            std::string::npos);
  // A long text in quotes is fine.
  std::string text;
  for (int i = 0; i < 98; ++i) text += std::string(600, 'x') + "\n";
  folder.write("in.csv", "user,item,rating,time,title\na,x,5,1,\"" + text + "end\"\n");
  EXPECT_EQ(read(folder, "csv", {}, "in.csv").titles.at(0).size(), 98u * 601 + 3);
}

TEST(BadLines, CountOverAllFilesOfEveryFormat) {
  TemporaryDirectory folder;
  write_all(folder, {{"u.data", "1\t1\t5\t1\n1\t1\n"},
                     {"u.item", "1|One|\nx|Two|\n"},
                     {"ratings.dat", "1::1::5::1\nx\n"},
                     {"movies.dat", "1::One\n1::One::a\n"},
                     {"ratings.csv", "userId,movieId,rating,timestamp\n1,1,5,x\n1,1,5,1\n"},
                     {"movies.csv", "movieId,title\n1,One,2\n1,One\n"}});
  for (const char* format : {"movielens-100k", "movielens-1m", "movielens-csv"}) {
    RawRatings raw;
    EXPECT_NE(read_with_limit(folder, format, "", 1, raw).find("malformed line 2"),
              std::string::npos);
    EXPECT_EQ(read_with_limit(folder, format, "", 2, raw), "");
    EXPECT_EQ(lines_of(raw), Lines{"1 1 5 1 One"});
    EXPECT_EQ(raw.bad_lines.count(), 2);
  }
  // A quote that is never closed may have swallowed any number of good lines.
  folder.write("open.csv", "user,item,rating,time\na,x,5,1\n\"a,x,5,1\na,x,5,1\n");
  RawRatings raw;
  EXPECT_NE(read_with_limit(folder, "csv", "open.csv", 100, raw).find("is still open"),
            std::string::npos);
  // The dataset says how many there were.
  EXPECT_EQ(read_with_limit(folder, "movielens-1m", "", 2, raw), "");
  EXPECT_EQ(write_dataset(folder / "d", std::move(raw), {}).at("bad_lines"), 2);
}

struct Hostile {
  const char* name;
  const char* format;
  Files files;
  const char* where;    ///< the message holds FOLDER/where
  const char* message;  ///< and this
  CsvColumns csv = {};
  ExitCode code = ExitCode::data;
  PrepareConfig config = {};
};

const std::string kGoodData = "1\t1\t5\t10\n2\t1\t3\t20\n", kGoodItem = "1|One|\n";
const std::string kHeader = "user,item,rating,time\n";
constexpr const char* kK = "movielens-100k";

Files ml100k(const std::string& data, const std::string& item = kGoodItem) {
  return {{"u.data", data}, {"u.item", item}};
}
Files ml1m(const std::string& ratings, const std::string& movies = "1::One::x\n") {
  return {{"ratings.dat", ratings}, {"movies.dat", movies}};
}
Files mlcsv(const std::string& ratings, const std::string& movies = "movieId,title\n1,One\n") {
  return {{"ratings.csv", ratings}, {"movies.csv", movies}};
}
Files csv(const std::string& text) { return {{"in.csv", text}}; }
/// Every quote is closed in time.
std::string long_record() {
  std::string text;
  while (text.size() <= LineReader::kMaxLine)
    text += "\"" + std::string(1000, 'x') + "\n" + std::string(1000, 'x') + "\",";
  return text;
}
std::string many_columns() {
  std::string text = "c1";
  for (int i = 2; i <= 4096; ++i) text += fmt::format(",c{}", i);
  return text;
}
CsvColumns titled(const std::string& title = "title") {
  CsvColumns columns;
  columns.title = title;
  columns.titles = "t.csv";  // the test puts its folder in front
  return columns;
}

std::vector<Hostile> hostile() {
  const std::string nul("1\t1\t5\t1\n1\t2\0\t5\t1\n", 17),
      long_line(LineReader::kMaxLine + 10, '1');
  return {
      {"data missing", kK, {{"u.item", kGoodItem}}, "u.data", "no such file"},
      {"items missing", kK, {{"u.data", kGoodData}}, "u.item", "no such file"},
      {"data empty", kK, ml100k(""), "u.data", "is empty"},
      {"items empty", kK, ml100k(kGoodData, ""), "u.item", "is empty"},
      {"only newlines", kK, ml100k("\n\n\n"), "u.data:", "no rows"},
      {"text as user", kK, ml100k(kGoodData + "bob\t1\t5\t1\n"), "u.data:3:", "user id 'bob'"},
      {"text as item", kK, ml100k("1\tx\t5\t1\n"), "u.data:1:", "item id 'x'"},
      {"text as rating", kK, ml100k("1\t1\tgood\t1\n"), "u.data:1:", "rating 'good'"},
      {"text as time", kK, ml100k("1\t1\t5\tnoon\n"), "u.data:1:", "time 'noon'"},
      {"too few columns", kK, ml100k(kGoodData + "1\t1\n"), "u.data:3:", "has 2 columns"},
      {"too many columns", kK, ml100k("1\t1\t5\t1\t1\n"), "u.data:1:", "has 5 columns"},
      {"other format", kK, ml100k("1::1::5::1\n"), "u.data:1:", "--format"},
      {"negative time", kK, ml100k("1\t1\t5\t-1\n"), "u.data:1:", "out of range"},
      {"huge time", kK, ml100k("1\t1\t5\t99999999999999999\n"), "u.data:1:", "out of range"},
      {"time beyond 64 bits", kK, ml100k("1\t1\t5\t99999999999999999999999\n"),
       "u.data:1:", "time"},
      {"time infinite", kK, ml100k("1\t1\t5\tinf\n"), "u.data:1:", "time"},
      {"rating nan", kK, ml100k("1\t1\tnan\t1\n"), "u.data:1:", "rating"},
      {"rating inf", kK, ml100k("1\t1\t-inf\t1\n"), "u.data:1:", "rating"},
      {"rating huge", kK, ml100k("1\t1\t1e30\t1\n"), "u.data:1:", "rating"},
      {"rating beyond float", kK, ml100k("1\t1\t1e300\t1\n"), "u.data:1:", "rating"},
      {"rating empty", kK, ml100k("1\t1\t\t1\n"), "u.data:1:", "rating"},
      {"rating hex", kK, ml100k("1\t1\t0x5\t1\n"), "u.data:1:", "rating"},
      {"NUL in an id", kK, ml100k(nul), "u.data:2:", "NUL"},
      {"huge line", kK, ml100k(kGoodData + long_line), "u.data:3:", "longer than"},
      {"huge id", kK, ml100k(std::string(2000, '1') + "\t1\t5\t1\n"), "u.data:1:", "2000 bytes"},
      {"negative id", kK, ml100k("-1\t1\t5\t1\n"), "u.data:1:", "user id '-1'"},
      {"item line without columns", kK, ml100k(kGoodData, "1|One|\nnothing\n"),
       "u.item:2:", "columns"},
      {"item id text", kK, ml100k(kGoodData, "one|One|\n"), "u.item:1:", "item id"},
      {"items binary", kK, ml100k(kGoodData, std::string("1|a\0b|\n", 7)), "u.item:1:", "NUL"},
      {"nothing liked", kK, ml100k("1\t1\t3\t1\n"), "u.data:", "no row is liked"},
      {"milliseconds after seconds", kK, ml100k("1\t1\t5\t881250949\n1\t2\t5\t881250949000\n"),
       "u.data:2:", "is in milliseconds"},
      {"seconds after milliseconds", "csv", csv(kHeader + "a,x,5,881250949000\na,y,5,2005-04-02\n"),
       "in.csv:3:", "is in seconds"},
      {"all at one time", kK,
       ml100k("1\t1\t5\t1\n2\t1\t5\t1\n3\t1\t5\t1\n4\t1\t5\t1\n5\t1\t5\t1\n"),
       "u.data:", "no row is left to train on"},
      {"1m single colon", "movielens-1m", ml1m("1:1:5:1\n"), "ratings.dat:1:", "has 1 columns"},
      {"1m movie without genres", "movielens-1m", ml1m("1::1::5::1\n", "1::One\n"),
       "movies.dat:1:", "item::title::genres"},
      {"1m movies missing",
       "movielens-1m",
       {{"ratings.dat", "1::1::5::1\n"}},
       "movies.dat",
       "no such file"},
      {"1m rating text", "movielens-1m", ml1m("1::1::5::1\n1::1::five::1\n"),
       "ratings.dat:2:", "rating 'five'"},
      {"csv ML without header", "movielens-csv", mlcsv("7,1,5,3\n"), "ratings.csv:1:", "no column"},
      {"csv ML no title column", "movielens-csv",
       mlcsv("userId,movieId,rating,timestamp\n1,1,5,1\n", "movieId,name\n1,One\n"),
       "movies.csv:1:", "'title'"},
      {"csv ML unquoted comma", "movielens-csv",
       mlcsv("userId,movieId,rating,timestamp\n1,1,5,1\n", "movieId,title\n1,One, The\n"),
       "movies.csv:2:", "needs quotes"},
      {"csv ML bad date", "movielens-csv",
       mlcsv("userId,movieId,rating,timestamp\n1,1,5,2005-13-41 00:00:00\n"),
       "ratings.csv:2:", "time '2005-13-41"},
      {"csv ML bad hour", "movielens-csv",
       mlcsv("userId,movieId,rating,timestamp\n1,1,5,2005-01-01 25:00:00\n"),
       "ratings.csv:2:", "time"},
      {"csv header only", "csv", csv(kHeader), "in.csv:", "no rows"},
      {"csv missing", "csv", {}, "in.csv", "no such file"},
      {"csv empty lines", "csv", csv("\n\n"), "in.csv", "no records"},
      {"csv column twice", "csv", csv("user,item,user,time\n"), "in.csv:1:", "'user' twice"},
      {"csv no user", "csv", csv("a,item,rating,time\n"), "in.csv:1:", "--csv.user"},
      {"csv no item", "csv", csv("user,a,rating,time\n"), "in.csv:1:", "--csv.item"},
      {"csv no time", "csv", csv("user,item,rating\n"), "in.csv:1:", "--csv.time"},
      {"csv named rating missing",
       "csv",
       csv(kHeader + "a,x,5,1\n"),
       "in.csv:1:",
       "--csv.rating",
       {.rating = "stars"}},
      {"csv short row", "csv", csv(kHeader + "a,x,5,1\na,x,5\n"), "in.csv:3:", "has 3 columns"},
      {"csv long row", "csv", csv(kHeader + "a,x,5,1,9\n"), "in.csv:2:", "has 5 columns"},
      {"csv quote open", "csv", csv(kHeader + "a,x,5,1\na,\"x,5,1\na,y,5,1\n"),
       "in.csv:3:", "a quote opened here is still open after 2 lines"},
      {"csv quote open and long", "csv", csv(kHeader + "\"" + std::string(3 << 20, '\n')),
       "in.csv:2:", "a quote opened here is still open after 100 lines"},
      {"csv quote open of long lines", "csv",
       csv(kHeader + "a,x,5,1\n\"a,x,5,1\n" + std::string(1 << 17, 'x') + "\nb,y,1,1\n"),
       "in.csv:3:", "a quote opened here is still open after 2 lines"},
      {"csv second quote open", "csv", csv(kHeader + "\"a\nb\",\"x,5,1\na,y,5,1\n"),
       "in.csv:3:", "a quote opened here is still open after 2 lines"},
      {"csv quote closed on another line", "csv", csv(kHeader + "a,\"x,5,1\na,\"y\",5,1\n"),
       "in.csv:2:", "text stands behind a closing quote on line 3"},
      {"csv record of many lines", "csv", csv(kHeader + long_record() + "\n"),
       "in.csv:2:", "the record that begins here is longer than"},
      {"csv too many columns", "csv", csv(std::string(1 << 20, ',') + "\n"),
       "in.csv:1:", "has 1048577 columns, more than 4096"},
      {"csv many columns", "csv", csv(many_columns() + "\n"), "in.csv:1:", "and 4076 more"},
      {"csv text after quote", "csv", csv(kHeader + "\"a\"b,x,5,1\n"),
       "in.csv:2:", "behind a closing quote"},
      {"csv id empty", "csv", csv(kHeader + ",x,5,1\n"), "in.csv:2:", "user id is empty"},
      {"csv id of blanks", "csv", csv(kHeader + " ,x,5,1\n"), "in.csv:2:", "user id is empty"},
      {"csv id not UTF-8", "csv", csv(kHeader + "a,\xff\xfe,5,1\n"),
       "in.csv:2:", "not valid UTF-8"},
      {"csv id with control", "csv", csv(kHeader + "a,\x01,5,1\n"),
       "in.csv:2:", "control character"},
      {"csv id with newline", "csv", csv(kHeader + "a,\"x\ny\",5,1\n"),
       "in.csv:3:", "control character"},
      {"csv label 2", "csv", csv("user,item,label,time\na,x,2,1\n"), "in.csv:2:", "label '2'"},
      {"csv label text", "csv", csv("user,item,label,time\na,x,yes,1\n"),
       "in.csv:2:", "label 'yes'"},
      {"csv labels all 0", "csv", csv("user,item,label,time\na,x,0,1\n"),
       "in.csv:", "every label is 0"},
      {"csv UTF-16", "csv", csv(std::string("\xff\xfeu\0s\0e\0r\0", 10)), "in.csv:1:", "NUL"},
      {"csv titles missing", "csv", csv(kHeader + "a,x,5,1\n"), "t.csv", "no such file", titled()},
      {"csv titles without id",
       "csv",
       {{"in.csv", kHeader + "a,x,5,1\n"}, {"t.csv", "sku,title\n"}},
       "t.csv:1:",
       "--csv.item",
       titled()},
      {"csv titles without title",
       "csv",
       {{"in.csv", kHeader + "a,x,5,1\n"}, {"t.csv", "item,title\n"}},
       "t.csv:1:",
       "--csv.title",
       titled("name")},
      {"csv separator",
       "csv",
       csv(kHeader),
       "",
       "--csv.separator",
       {.separator = ",,"},
       ExitCode::config},
      {"clicks without negatives",
       "csv",
       csv("user,item,time\na,x,1\n"),
       "",
       "--negatives",
       {},
       ExitCode::config},
      {"negatives for ratings",
       "csv",
       csv(kHeader + "a,x,5,1\n"),
       "",
       "--negatives",
       {},
       ExitCode::config,
       {.negatives = 2}},
      {"shares above 1",
       "csv",
       csv(kHeader + "a,x,5,1\n"),
       "",
       "--split.valid",
       {},
       ExitCode::config,
       {.split = {.valid = 0.6, .test = 0.6}}},
      {"boundaries before all",
       "csv",
       csv(kHeader + "a,x,5,9\n"),
       "in.csv:",
       "left to train on",
       {},
       ExitCode::data,
       {.split = {.valid_from = 1, .test_from = 2}}},
  };
}

TEST(LineReader, PathsThatCannotBeLookedUpAreNotCalledMissing) {
  try {
    LineReader reader(std::string(5000, 'x'), false);
    ADD_FAILURE() << "was accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("cannot be read: "), std::string::npos)
        << error.what();
  }
}

class HostileSource : public testing::TestWithParam<Hostile> {};

TEST_P(HostileSource, IsRefusedAndLeavesNothing) {
  const Hostile& hostile = GetParam();
  TemporaryDirectory folder, target;
  write_all(folder, hostile.files);
  CsvColumns csv = hostile.csv;
  if (!csv.titles.empty()) csv.titles = folder / csv.titles;
  try {
    write_dataset(
        target / "dataset",
        read(folder, hostile.format, csv, std::string(hostile.format) == "csv" ? "in.csv" : ""),
        hostile.config);
    ADD_FAILURE() << "was accepted";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.code(), hostile.code) << text;
    EXPECT_TRUE(!*hostile.where || text.starts_with((folder / hostile.where).string())) << text;
    EXPECT_NE(text.find(hostile.message), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 500) << text;
  }
  EXPECT_TRUE(fs::is_empty(target.path()));
}

INSTANTIATE_TEST_SUITE_P(All, HostileSource, testing::ValuesIn(hostile()), [](const auto& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

RawRatings large() {
  RawRatings raw;
  for (int i = 0; i < 20000; ++i)
    raw.add(std::to_string(i % 500), std::to_string(i / 500), static_cast<float>(1 + i % 5), i);
  return raw;
}

TEST(Output, BelowAFileIsRefused) {
  TemporaryDirectory folder;
  folder.write("file", "x");
  EXPECT_THROW(write_dataset(folder / "file/dataset", large(), {}), DataError);
}

TEST(Output, FullDiskLeavesNothing) {
  TemporaryDirectory folder;
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "no tmpfs can be mounted here: " << std::strerror(errno);
  try {
    write_dataset(disk / "dataset", large(), {});
    ADD_FAILURE() << "20,000 rows fit 64 KiB?";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(fs::is_empty(disk));
  EXPECT_EQ(umount(disk.c_str()), 0);
}

TEST(Formats, UnknownOnesAreNamed) {
  try {
    find_format("netflix");
    ADD_FAILURE();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("movielens-1m"), std::string::npos);
  }
}

}  // namespace
}  // namespace graphlora
