// Feeds damaged model files to their readers: config.json, safetensors, whole checkpoints, the
// index of their shards, tokenizer.json, tokenizer.model; and damaged checkpoints of a run: a
// step's manifest, LATEST, a file of embeddings. Every input must be read, or refused by one of the
// program's own errors, within 10 seconds and bounded memory.
#include <sys/resource.h>
#include <unistd.h>

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/program_options.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <typeinfo>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/safetensors.hpp"
#include "data/tokenizer.hpp"
#include "fuzz/mutate.hpp"
#include "model/hf_checkpoint.hpp"
#include "model/model_slice.hpp"
#include "support/temporary_directory.hpp"
#include "train/checkpoint.hpp"
#include "train/embedding_store.hpp"

namespace graphlora::fuzz {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr unsigned kSecondsPerInput = 10;

struct Options {
  double seconds = 10;
  std::uint64_t seed = 1, first = 0, count = 0;  // count 0: until the time is over
  std::string target, corpus = "tests/fuzz/corpus", regressions = "tests/fuzz/regressions",
                      golden = "tests/golden", findings = "fuzz-findings";
  std::size_t memory = 2048;  // MiB
};

struct Target {
  std::string name;
  std::string file;  // where the input goes, in the target's directory
  std::string (*mutate)(const std::string&, Random&);
  std::function<void(const fs::path& directory)> read;
  std::vector<std::string> seeds = {};
};

/// Bytes of every tensor are touched, so that a view beyond the file cannot go unseen.
void read_tensors(const fs::path& path) {
  const SafetensorsReader reader(path);
  volatile std::uint64_t sum = 0;
  for (const auto& [name, entry] : reader.entries()) {
    const at::Tensor tensor = reader.tensor(name);
    const auto* data = static_cast<const std::uint8_t*>(tensor.const_data_ptr());
    for (std::size_t i = 0; i < tensor.nbytes(); ++i) sum = sum + data[i];
    reader.release(tensor);
  }
}

void load_checkpoint(const fs::path& directory) {
  const HfCheckpoint checkpoint(directory);
  const Precision precision = Precision::parse("fp32");
  const LlamaConfig& config = checkpoint.config();
  checkpoint.load(precision, 1, 2);
  checkpoint.load(precision, 0, 1, ModelSlice::of(config, 2, 1));
}

void read_config(const fs::path& directory) {
  const LlamaConfig config = read_llama_config(directory / "config.json");
  for (int size = 1; size <= 3; ++size)
    for (int rank = 0; rank < size; ++rank) ModelSlice::of(config, size, rank);
}

void use_tokenizer(const fs::path& directory) {
  const Tokenizer tokenizer(directory);
  tokenizer.bos();
  const std::string texts[] = {"", "Hello  world, it's 2024!\n\n\ttabs",
                               "Zo\xc3\xab \xf0\x9f\x98\x80 e\xcc\x81", "<|endoftext|><s> x </s>",
                               std::string(300, 'a')};
  for (const std::string& text : texts) tokenizer.decode(tokenizer.encode(text));
  try {
    tokenizer.decode({-1, 0, static_cast<std::int32_t>(tokenizer.vocabulary_size())});
  } catch (const DataError&) {
    return;  // as it must be: two of these are no tokens
  }
  throw std::logic_error("ids beyond the vocabulary were decoded");
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
/// One field of the protocol buffers wire format: a number, or bytes.
std::string field(std::uint64_t key, std::uint64_t value) {
  return varint(key << 3) + varint(value);
}
std::string field(std::uint64_t key, const std::string& bytes) {
  return varint(key << 3 | 2) + varint(bytes.size()) + bytes;
}

/// A small tokenizer.model of the Llama family.
std::string sentencepiece_model() {
  std::string model;
  const auto piece = [&](const std::string& text, float score, std::uint64_t type) {
    const auto bits = std::bit_cast<std::uint32_t>(score);
    std::string message = field(1, text);
    message += static_cast<char>(2 << 3 | 5);
    message.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    model += field(1, message + field(3, type));
  };
  piece("<unk>", 0, 2);
  piece("<s>", 0, 3);
  piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) piece(fmt::format("<0x{:02X}>", byte), 0, 6);
  float score = 0;
  for (const char* text : {"\xe2\x96\x81t", "he", "\xe2\x96\x81the", "lo", "el", "\xe2\x96\x81",
                           "t", "h", "e", "l", "o", "\xc3\xab"})
    piece(text, score--, 1);
  return model + field(2, field(3, std::uint64_t{2}) + field(35, std::uint64_t{1})) +
         field(3, field(1, std::string("identity")) + field(3, std::uint64_t{1}) +
                      field(4, std::uint64_t{0}));
}

/// A model's weights in two files and the index that names them.
void write_shards(const fs::path& model, const fs::path& directory) {
  fs::copy_file(model / "config.json", directory / "config.json");
  const SafetensorsReader reader(model / "model.safetensors");
  std::vector<std::pair<std::string, at::Tensor>> shards[2];
  nlohmann::json map;
  int i = 0;
  for (const auto& [name, entry] : reader.entries()) {
    map[name] = fmt::format("{}-of-2.safetensors", i % 2 == 0 ? "a" : "b");
    shards[i++ % 2].emplace_back(name, reader.tensor(name));
  }
  write_safetensors(directory / "a-of-2.safetensors", shards[0]);
  write_safetensors(directory / "b-of-2.safetensors", shards[1]);
  write_json(directory / "model.safetensors.index.json",
             {{"metadata", {{"total_size", 1}}}, {"weight_map", map}});
}

std::string small_safetensors(const fs::path& directory) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                    at::kInt, at::kShort, at::kByte, at::kBool})
    tensors.emplace_back(dtype_name(type), at::zeros({2, 3}, type));
  tensors.emplace_back("empty", at::zeros({0, 7}));
  tensors.emplace_back("scalar", at::ones({}));
  write_safetensors(directory / "small", tensors, {{"format", "pt"}});
  return read_file(directory / "small");
}

std::vector<std::string> files_of(const fs::path& directory) {
  std::vector<fs::path> paths;
  if (fs::exists(directory))
    for (const auto& entry : fs::directory_iterator(directory)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> contents;
  for (const fs::path& path : paths) contents.push_back(read_file(path));
  return contents;
}

constexpr std::int64_t kNodes = 5;
constexpr const char* kStep = "step-000001";
constexpr const char* kEmbeddings = "embeddings-00000-of-00001.safetensors";

/// A whole step of a run, of a model of nothing.
void write_step(const fs::path& step) {
  make_directories(step / "adapter");
  write_file(step / "adapter/adapter_config.json", "{}");
  for (const char* name :
       {"adapter/adapter_model.safetensors", "graphlora.safetensors", "optimizer.safetensors"})
    write_safetensors(step / name, {{"x", at::zeros({2})}});
  write_safetensors(step / kEmbeddings, {{"node_id", at::arange(kNodes, at::kLong)},
                                         {"weight", at::ones({kNodes, 3})},
                                         {"exp_avg", at::ones({kNodes, 3})},
                                         {"exp_avg_sq", at::ones({kNodes, 3})}});
  ModelConfig model;
  model.gnn.layers = 3;  // as a run has settled it
  model.lora.targets = {"q_proj"};
  nlohmann::json manifest{
      {"format", kCheckpointFormat},
      {"version", "0"},
      {"step", 1},
      {"model", to_json(model)},
      {"templates", "t"},
      {"bias_columns", true},
      {"init_adapter", {{"path", "p"}, {"fingerprint", "f"}}},
      {"sampler",
       {{"seed", 1},
        {"batch_size", 1},
        {"block", 1},
        {"max_train_examples", 0},
        {"cut", "fold"},
        {"groups", 1},
        {"groups_asked", 1}}},
      {"state",
       {{"best_auc", 0.5}, {"best_step", 1}, {"evaluations_since_best", 0}, {"evaluated_step", 1}}},
      {"base_model", {{"path", "b"}, {"fingerprint", "f"}}},
      {"dataset", {{"path", "d"}, {"fingerprint", "f"}}}};
  for (const char* name : {"adapter/adapter_config.json", "adapter/adapter_model.safetensors",
                           "graphlora.safetensors", "optimizer.safetensors", kEmbeddings}) {
    manifest["files"][name] = {{"bytes", fs::file_size(step / name)},
                               {"sha256", sha256_file(step / name)}};
  }
  manifest["checksum"] = manifest_checksum(manifest);
  write_json(step / "manifest.json", manifest);
}

/// What resuming asks of a manifest. Half of them get a right checksum, which would hide what is
/// behind it.
void read_manifest(const fs::path& run) {
  const fs::path step = run / kStep;
  auto json = nlohmann::json::parse(read_file(step / "manifest.json"), nullptr, false);
  if (json.is_object() && json.size() % 2 == 1) {
    json["checksum"] = manifest_checksum(json);
    write_json(step / "manifest.json", json);
  }
  const Checkpoint checkpoint(step, /*prefer_latest=*/true, /*verify=*/true);
  checkpoint.model_config();
  checkpoint.state();
  checkpoint.bias_columns();
  checkpoint.cut();
  checkpoint.groups();
  checkpoint.init_adapter();
  checkpoint.require_identity({1, 1, 1, 0, {}, 1});
}

/// LATEST may be anything: the whole step is found.
void read_latest(const fs::path& run) {
  const ResumePoint point = find_resume_point(run);
  if (!point.step || *point.step != run / kStep)
    throw std::logic_error("a whole step was not found");
}

/// The targets, each with a directory of its own below `work` and its seeds.
std::vector<Target> make_targets(const Options& options, const fs::path& work) {
  std::vector<Target> all{
      {"config", "config.json", mutate_json, read_config},
      {"safetensors", "x.safetensors", mutate_safetensors,
       [](const fs::path& directory) { read_tensors(directory / "x.safetensors"); }},
      {"checkpoint", "model.safetensors", mutate_safetensors, load_checkpoint},
      {"index", "model.safetensors.index.json", mutate_json, load_checkpoint},
      {"tokenizer", "tokenizer.json", mutate_json, use_tokenizer},
      {"sentencepiece", "tokenizer.model", mutate_bytes, use_tokenizer},
      {"manifest", std::string(kStep) + "/manifest.json", mutate_json, read_manifest},
      {"latest", "LATEST", mutate_bytes, read_latest},
      {"embeddings", kEmbeddings, mutate_safetensors, [](const fs::path& directory) {
         read_embeddings(directory, at::arange(kNodes, at::kLong), kNodes, at::kFloat);
       }}};
  const fs::path golden = options.golden, model = golden / "tiny_qwen2";
  for (Target& target : all) {
    const fs::path directory = work / target.name;
    fs::create_directories(directory);
    target.seeds = files_of(fs::path(options.corpus) / target.name);
    const auto add = [&](const fs::path& path) { target.seeds.push_back(read_file(path)); };
    if (target.name == "config") {
      for (const auto& entry : fs::directory_iterator(golden))
        if (fs::exists(entry.path() / "config.json")) add(entry.path() / "config.json");
      std::sort(target.seeds.begin(), target.seeds.end());  // not in the directory's order
    } else if (target.name == "safetensors") {
      target.seeds.push_back(small_safetensors(directory));
    } else if (target.name == "checkpoint") {
      fs::copy_file(model / "config.json", directory / "config.json");
      add(model / "model.safetensors");
    } else if (target.name == "index") {
      write_shards(model, directory);
      add(directory / "model.safetensors.index.json");
    } else if (target.name == "tokenizer") {
      add(golden / "tiny_llama" / "tokenizer.json");
    } else if (target.name == "manifest") {
      write_step(directory / kStep);
      add(directory / kStep / "manifest.json");
    } else if (target.name == "latest") {
      write_step(directory / kStep);
      target.seeds.push_back(fmt::format("{}\n", kStep));
    } else if (target.name == "embeddings") {
      write_step(directory / kStep);
      add(directory / kStep / kEmbeddings);
    } else {
      target.seeds.push_back(sentencepiece_model());
    }
  }
  return all;
}

class Fuzzer {
 public:
  Fuzzer(Options options, fs::path work) : options_(std::move(options)), work_(std::move(work)) {}

  int run() {
    std::vector<Target> targets = make_targets(options_, work_);
    if (!options_.target.empty())
      std::erase_if(targets, [&](const Target& t) { return t.name != options_.target; });
    if (targets.empty()) throw ConfigError("--target {}: there is no such target", options_.target);
    for (const Target& target : targets) {
      for (const std::string& seed : target.seeds)
        if (!read(target, seed, "a seed"))
          finding(target, seed, "the seed itself is refused: " + refusal_);
      for (const std::string& input : files_of(fs::path(options_.regressions) / target.name))
        read(target, input, "a regression");
    }
    const auto begin = Clock::now();
    std::vector<std::array<std::uint64_t, 2>> outcomes(targets.size());  // refused, read
    std::uint64_t number = options_.first;
    const auto going_on = [&] {
      if (options_.count > 0) return number < options_.first + options_.count;
      return std::chrono::duration<double>(Clock::now() - begin).count() < options_.seconds;
    };
    for (; going_on(); ++number) {
      for (std::size_t t = 0; t < targets.size(); ++t) {
        const Target& target = targets[t];
        std::seed_seq sequence{options_.seed, options_.seed >> 32, number, number >> 32,
                               static_cast<std::uint64_t>(std::hash<std::string>()(target.name))};
        Random random(sequence);
        const std::string& seed = target.seeds[random() % target.seeds.size()];
        const bool accepted = read(target, target.mutate(seed, random),
                                   fmt::format("--seed {} --first {}", options_.seed, number));
        ++outcomes[t][accepted];
      }
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    for (std::size_t t = 0; t < targets.size(); ++t)
      fmt::print("{:<14}{:>9} inputs, {:>8} read, {:>8} refused\n", targets[t].name,
                 number - options_.first, outcomes[t][1], outcomes[t][0]);
    fmt::print("{} inputs in {:.0f} s, seed {}, {} MiB at most, {} findings\n",
               targets.size() * (number - options_.first), seconds, options_.seed, peak_mib(),
               findings_);
    return findings_ > 0 ? 1 : 0;
  }

 private:
  static std::size_t peak_mib() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::size_t>(usage.ru_maxrss) >> 10;
  }

  /// Whether the input was read, not refused. A crash leaves it in the target's directory.
  bool read(const Target& target, const std::string& input, const std::string& which) {
    const fs::path directory = work_ / target.name, path = directory / target.file;
    std::ofstream(path, std::ios::binary | std::ios::trunc) << input;
    current_ =
        fmt::format("fuzz: more than {} s: {} in {}\n", kSecondsPerInput, which, path.string());
    alarm(kSecondsPerInput * (kSanitized ? 3 : 1));
    bool accepted = false;
    try {
      target.read(directory);
      accepted = true;
    } catch (const Error& error) {
      // Control characters of the file may be in it: the program prints blanks for them.
      refusal_ = error.what();
      if (refusal_.empty()) finding(target, input, "an error without a message");
    } catch (const std::exception& error) {
      finding(target, input, fmt::format("{}: {}", typeid(error).name(), error.what()));
    }
    alarm(0);
    if (peak_mib() > options_.memory) {
      finding(target, input, fmt::format("{} MiB", peak_mib()));
      options_.memory = peak_mib() * 2;
    }
    return accepted;
  }

  void finding(const Target& target, const std::string& input, const std::string& what) {
    const fs::path folder = fs::path(options_.findings) / target.name;
    fs::create_directories(folder);
    const fs::path path = folder / sha256(input).substr(0, 16);
    std::ofstream(path, std::ios::binary) << input;
    fmt::print("FINDING {} {}: {}\n", target.name, path.string(), what);
    std::fflush(stdout);
    ++findings_;
  }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kSanitized = true;
#else
  static constexpr bool kSanitized = false;
#endif

  Options options_;
  fs::path work_;
  std::uint64_t findings_ = 0;
  std::string refusal_;  // the last one

 public:
  static inline std::string current_;
};

void too_slow(int) {
  const ssize_t ignored = write(STDERR_FILENO, Fuzzer::current_.data(), Fuzzer::current_.size());
  _exit(ignored >= 0 ? 1 : 2);
}

int run(int argc, char** argv) {
  namespace po = boost::program_options;
  Options options;
  po::options_description description(
      "Damaged model files and checkpoints against their readers; exit code 1 where one was "
      "neither read nor "
      "refused "
      "by one of its own errors. A crash leaves its input in a directory graphlora-test-* of the "
      "temporary directory.");
  description.add_options()("help", "this text")(
      "seconds", po::value(&options.seconds)->default_value(options.seconds), "how long")(
      "seed", po::value(&options.seed)->default_value(options.seed), "another seed, other inputs")(
      "first", po::value(&options.first)->default_value(0), "number of the first input")(
      "count", po::value(&options.count)->default_value(0), "inputs of each target; 0: by time")(
      "target", po::value(&options.target),
      "only config, safetensors, checkpoint, index, tokenizer, sentencepiece, manifest, latest or "
      "embeddings")("max-mib", po::value(&options.memory)->default_value(options.memory),
                    "bound on memory")(
      "corpus", po::value(&options.corpus)->default_value(options.corpus), "DIR: more seeds")(
      "regressions", po::value(&options.regressions)->default_value(options.regressions),
      "DIR: inputs tried as they are")(
      "golden", po::value(&options.golden)->default_value(options.golden), "DIR: the tiny models")(
      "findings", po::value(&options.findings)->default_value(options.findings),
      "DIR: where inputs go that found something");
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, description), values);
  po::notify(values);
  if (values.contains("help")) {
    std::cout << description;
    return 0;
  }
  at::set_num_threads(1);
  std::signal(SIGALRM, too_slow);
  const TemporaryDirectory work;
  return Fuzzer(options, work.path()).run();
}

}  // namespace
}  // namespace graphlora::fuzz

int main(int argc, char** argv) {
  try {
    return graphlora::fuzz::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fuzz: {}\n", error.what());
    return 2;
  }
}
