// SentencePiece models (tokenizer.model), as HF turns them into a fast tokenizer.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>

namespace graphlora {

/// DIR/tokenizer.model and, where there are any, DIR/tokenizer_config.json, special_tokens_map.json
/// and added_tokens.json as the tokenizer.json that HF's LlamaTokenizerFast makes of them:
/// `legacy`, `add_prefix_space`, `add_bos_token`, the special and the added tokens count. Throws
/// DataError for files that are damaged or hold something else than a BPE model of the Llama
/// family.
nlohmann::json read_sentencepiece(const std::filesystem::path& directory);

}  // namespace graphlora
