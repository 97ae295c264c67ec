// What oneDNN, and ideep between it and LibTorch, keep of products.
#pragma once
#include <cstdlib>

namespace graphlora {

/// Lets both keep what belongs to 32 products, unless the environment says otherwise. Each keeps
/// 1,024 by their shapes, with code of 256 KiB for each of several kernels, and nearly every pack
/// has a length of its own; 32 are met again within a pack, from layer to layer. To be called
/// before there are threads.
inline void bound_primitive_cache() {
  for (const char* name : {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"})
    setenv(name, "32", /*overwrite=*/0);
}

}  // namespace graphlora
