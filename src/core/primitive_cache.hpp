// oneDNN's cache of products.
#pragma once
#include <cstdlib>

namespace graphlora {

/// Lets oneDNN keep the code of 16 products, unless the environment says otherwise. It keeps 1,024,
/// some hundred KiB each, by their shapes, and nearly every pack has a length of its own; 16 are
/// met again within a pack, from layer to layer. To be called before there are threads.
inline void bound_primitive_cache() {
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16", /*overwrite=*/0);
}

}  // namespace graphlora
