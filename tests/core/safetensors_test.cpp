#include "core/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "core/error.hpp"
#include "support/temporary_directory.hpp"

namespace graphlora {
namespace {

/// A file of the given header text and number of data bytes, with the header's true length.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(data_bytes, 'd');
}

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + rest;
}

TEST(Safetensors, RoundTripOfEveryType) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                          at::kShort, at::kChar, at::kByte, at::kBool}) {
    tensors.emplace_back(std::string("t.") + c10::toString(type),
                         at::arange(6).reshape({2, 3}).to(type));
  }
  tensors.emplace_back("u16", at::arange(3).to(at::kUInt16));
  tensors.emplace_back("empty", at::empty({0, 5}));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("nan", at::full({2}, std::numeric_limits<float>::quiet_NaN()));
  tensors.emplace_back("strided", at::arange(6, at::kFloat).reshape({2, 3}).t());
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "caf\xC3\xA9 \"q\""}});

  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.entries().size(), tensors.size());
  EXPECT_EQ(reader.metadata().at("note"), "caf\xC3\xA9 \"q\"");
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = reader.tensor(name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read.sizes(), tensor.sizes()) << name;
    const std::string_view bytes(static_cast<const char*>(read.const_data_ptr()), read.nbytes());
    const at::Tensor expected = tensor.contiguous();
    EXPECT_EQ(bytes, std::string_view(static_cast<const char*>(expected.const_data_ptr()),
                                      expected.nbytes()))
        << name;
  }
}

TEST(Safetensors, SameTensorsGiveTheSameBytes) {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, at::Tensor>> tensors{{"b", at::ones({3})},
                                                                {"a", at::zeros({2})}};
  write_safetensors(directory / "x", tensors, {{"k", "v"}, {"j", "w"}});
  write_safetensors(directory / "y", tensors, {{"j", "w"}, {"k", "v"}});
  EXPECT_EQ(read_file(directory / "x"), read_file(directory / "y"));
}

TEST(Safetensors, TensorsOutliveTheReader) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  write_safetensors(path, {{"a", at::arange(1000)}});
  at::Tensor tensor;
  {
    const SafetensorsReader reader(path);
    tensor = reader.tensor("a");
  }
  EXPECT_EQ(tensor.sum().item<std::int64_t>(), 499500);
}

TEST(Safetensors, RequiredTypeAndShape) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  write_safetensors(path, {{"a", at::ones({2, 3})}});
  const SafetensorsReader reader(path);
  EXPECT_NO_THROW(reader.tensor("a", at::kFloat, {2, 3}));
  EXPECT_NO_THROW(reader.tensor("a", at::kFloat, {-1, 3}));
  const auto message = [&](at::ScalarType type,
                           const std::vector<std::int64_t>& shape) -> std::string {
    try {
      reader.tensor("a", type, shape);
    } catch (const ShapeError& error) {
      return std::string(error.what()).substr(path.string().size());
    }
    return "no error";
  };
  EXPECT_EQ(message(at::kDouble, {2, 3}), ": tensor a is F32, expected F64");
  EXPECT_EQ(message(at::kFloat, {3, 2}), ": tensor a has shape [2,3], expected [3,2]");
  EXPECT_EQ(message(at::kFloat, {2, 3, 1}), ": tensor a has shape [2,3], expected [2,3,1]");
  EXPECT_EQ(message(at::kFloat, {6}), ": tensor a has shape [2,3], expected [6]");
  EXPECT_THROW(reader.tensor("b"), DataError);
  EXPECT_THROW(reader.tensor("b", at::kFloat, {}), DataError);
}

TEST(Safetensors, UnalignedDataOfForeignWriters) {
  const TemporaryDirectory directory;
  std::string bytes = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 0);
  const float values[2]{1.5f, -2.f};
  bytes.append(reinterpret_cast<const char*>(values), 8);
  const SafetensorsReader reader(directory.write("x", bytes));
  const at::Tensor tensor = reader.tensor("a");
  EXPECT_EQ(tensor[0].item<float>(), 1.5f);
  EXPECT_EQ(tensor[1].item<float>(), -2.f);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()) % 4, 0u);
}

TEST(Safetensors, PartsOfUnalignedDataAreThoseOfAlignedData) {
  const TemporaryDirectory directory;
  const at::Tensor expected = at::arange(2 * 5 * 3, at::kFloat).view({2, 5, 3});
  std::string header = R"({"a":{"dtype":"F32","shape":[2,5,3],"data_offsets":[0,120]}})";
  for (int moved = 0; moved < 8; ++moved) {  // eight headers, one after the other aligned
    std::string bytes = file_of(header, 0);
    bytes.append(static_cast<const char*>(expected.const_data_ptr()), 120);
    const SafetensorsReader reader(directory.write("x", bytes));
    EXPECT_EQ(reader.aligned("a"), bytes.size() % 4 == 0);
    EXPECT_EQ(reader.bytes("a").size(), 120U);
    EXPECT_EQ(std::memcmp(reader.bytes("a").data(), expected.const_data_ptr(), 120), 0);
    EXPECT_TRUE(reader.tensor("a").equal(expected));
    for (const std::int64_t dim : {0, 1, 2}) {
      for (std::int64_t begin = 0; begin <= expected.size(dim); ++begin) {
        for (std::int64_t size = 0; begin + size <= expected.size(dim); ++size) {
          const at::Tensor part = reader.part("a", dim, begin, size);
          EXPECT_TRUE(part.equal(expected.narrow(dim, begin, size))) << dim << begin << size;
          if (!reader.aligned("a")) {
            EXPECT_EQ(part.storage().nbytes(), part.nbytes());  // not the whole
          }
        }
      }
      EXPECT_THROW(reader.part("a", dim, 1, expected.size(dim)), c10::Error);
    }
    EXPECT_THROW(reader.part("b", 0, 0, 1), DataError);
    EXPECT_NO_THROW(reader.release("a"));
    EXPECT_TRUE(reader.tensor("a").equal(expected));
    header.push_back(' ');
  }
}

TEST(Safetensors, HostileFiles) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape,
                       offsets);
  };
  struct Case {
    const char* name;
    std::string bytes;
    const char* expected;
  };
  const std::vector<Case> cases{
      {"empty file", "", "too short"},
      {"seven bytes", "1234567", "too short"},
      {"header of 2^63 bytes", with_length(std::uint64_t{1} << 63, good), "does not fit"},
      {"header of 2^64-1 bytes", with_length(~std::uint64_t{0}, good), "does not fit"},
      {"header of 2^64-8 bytes", with_length(~std::uint64_t{0} - 7, good), "does not fit"},
      {"header one byte too long", with_length(good.size() + 9, good + "12345678"), "does not fit"},
      {"header above the format's limit", with_length(100'000'001, good), "does not fit"},
      {"header of no bytes", with_length(0, ""), "not valid JSON"},
      {"header not JSON", file_of("not json", 8), "not valid JSON"},
      {"header cut short", file_of(good.substr(0, 20), 8), "not valid JSON"},
      {"header with text behind", file_of(good + "x", 8), "not valid JSON"},
      {"header not UTF-8", file_of("{\"\xFF\":1}", 8), "not valid JSON"},
      {"header an array", file_of("[1,2]", 8), "not a JSON object"},
      {"header a string", file_of("\"a\"", 8), "not a JSON object"},
      {"header deeply nested", file_of(std::string(1000000, '['), 8), "not valid JSON"},
      {"shape deeply nested",
       file_of(entry(R"("F32")", std::string(300000, '[') + std::string(300000, ']'), "[0,8]"), 8),
       "not valid JSON"},
      {"entry not an object", file_of(R"({"a":5})", 8), "bad header entry for a"},
      {"entry without dtype", file_of(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8),
       "bad header entry for a"},
      {"entry without shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8),
       "bad header entry for a"},
      {"entry without offsets", file_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8),
       "bad header entry for a"},
      {"unknown dtype", file_of(entry(R"("F8_E4M3")", "[2]", "[0,8]"), 8),
       "unsupported dtype F8_E4M3"},
      {"dtype a number", file_of(entry("5", "[2]", "[0,8]"), 8), "bad header entry for a"},
      {"negative shape", file_of(entry(R"("F32")", "[-2]", "[0,8]"), 8), "tensor a: bad size -2"},
      {"fractional shape", file_of(entry(R"("F32")", "[2.5]", "[0,8]"), 8), "bad size 2.5"},
      {"shape a string", file_of(entry(R"("F32")", R"(["2"])", "[0,8]"), 8), "bad size"},
      {"shape of 2^63", file_of(entry(R"("F32")", "[9223372036854775808]", "[0,8]"), 8),
       "bad size"},
      {"shape of 2^64", file_of(entry(R"("F32")", "[18446744073709551616]", "[0,8]"), 8),
       "bad size"},
      {"shape that overflows", file_of(entry(R"("F32")", "[4294967296,4294967296]", "[0,0]"), 8),
       "too large"},
      {"shape that overflows to the right size",
       file_of(entry(R"("F32")", "[4611686018427387904,2,2]", "[0,0]"), 8), "too large"},
      {"shape with a zero that overflows around it",
       file_of(entry(R"("F32")", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), 8),
       "too large"},
      {"offsets one number", file_of(entry(R"("F32")", "[2]", "[0]"), 8),
       "tensor a: bad data_offsets"},
      {"offsets negative", file_of(entry(R"("F32")", "[2]", "[-8,0]"), 8), "bad data_offsets"},
      {"offsets strings", file_of(entry(R"("F32")", "[2]", R"(["0","8"])"), 8), "bad data_offsets"},
      {"offsets reversed", file_of(entry(R"("F32")", "[2]", "[8,0]"), 8), "lie outside"},
      {"offsets beyond the file", file_of(entry(R"("F32")", "[2]", "[8,16]"), 8), "lie outside"},
      {"offsets of 2^64-1", file_of(entry(R"("F32")", "[2]", "[0,18446744073709551615]"), 8),
       "lie outside"},
      {"data cut short", file_of(good, 7), "lie outside"},
      {"too few bytes for the shape", file_of(entry(R"("F32")", "[3]", "[0,8]"), 8),
       "8 bytes do not hold shape [3] of F32"},
      {"too many bytes for the shape", file_of(entry(R"("F32")", "[1]", "[0,8]"), 8),
       "do not hold"},
      {"overlapping tensors",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
               12),
       "overlap"},
      {"equal ranges",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
               8),
       "overlap"},
      {"a name twice",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
               16),
       "twice"},
      {"metadata not strings", file_of(R"({"__metadata__":{"x":5}})", 0), "__metadata__"},
      {"metadata a list", file_of(R"({"__metadata__":[1]})", 0), "__metadata__"},
  };
  const TemporaryDirectory directory;
  for (const Case& c : cases) {
    const std::string path = directory.write("x.safetensors", c.bytes).string();
    try {
      const SafetensorsReader reader(path);
      ADD_FAILURE() << c.name << ": accepted";
    } catch (const DataError& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find(path + ": "), 0u) << c.name << ": " << message;
      EXPECT_NE(message.find(c.expected), std::string::npos) << c.name << ": " << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << c.name;
      EXPECT_LT(message.size(), 500u) << c.name;
    } catch (const std::exception& error) {
      ADD_FAILURE() << c.name << ": not a DataError: " << error.what();
    }
  }
  EXPECT_THROW(SafetensorsReader(directory / "none"), DataError);
  EXPECT_THROW(SafetensorsReader(directory.path()), DataError);
}

TEST(Safetensors, ReadableFromPython) {
  if (!std::filesystem::exists(".venv/bin/python"))
    GTEST_SKIP() << "no .venv (launch/setup makes it)";
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  write_safetensors(
      path, {{"a", at::arange(6, at::kFloat).reshape({2, 3})}, {"b", at::ones({3}, at::kBFloat16)}},
      {{"key", "value"}});
  const auto script =
      directory.write("check.py",
                      "import sys, torch\n"
                      "from safetensors import safe_open\n"
                      "from safetensors.torch import save_file\n"
                      "with safe_open(sys.argv[1], 'pt') as f:\n"
                      "    assert f.metadata() == {'key': 'value'}\n"
                      "    assert f.get_tensor('a').tolist() == [[0, 1, 2], [3, 4, 5]]\n"
                      "    assert f.get_tensor('b').dtype == torch.bfloat16\n"
                      "save_file({'c': torch.full((2,), 7, dtype=torch.int16)}, sys.argv[2])\n");
  const auto back = directory / "back.safetensors";
  ASSERT_EQ(std::system(fmt::format(".venv/bin/python {} {} {}", script.string(), path.string(),
                                    back.string())
                            .c_str()),
            0);
  EXPECT_TRUE(at::equal(SafetensorsReader(back).tensor("c"), at::full({2}, 7, at::kShort)));
}

}  // namespace
}  // namespace graphlora
