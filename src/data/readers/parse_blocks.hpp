// The blocks of a file, parsed by several threads and taken in the file's order.
#pragma once
#include <algorithm>
#include <exception>
#include <future>
#include <thread>
#include <vector>

#include "data/readers/line_blocks.hpp"

namespace graphlora {

/// Calls `parser.parse()` for every block of the file, in other threads and as many at a time as
/// there are cores; each of these has a parser of its own, which `make_parser()` makes and whose
/// member `block` the block is put into. Then calls `take(parser)`, in this thread and in the order
/// of the blocks. The first exception on this way, of any of the three, ends the reading.
template <class MakeParser, class Take>
void parse_blocks(LineBlocks& blocks, MakeParser make_parser, Take take) {
  using Parser = std::invoke_result_t<MakeParser>;
  struct Slot {
    Parser parser;
    std::future<void> done;  // its destructor waits
  };
  std::vector<Slot> slots;
  for (unsigned i = 0; i < std::max(2U, std::thread::hardware_concurrency()); ++i)
    slots.push_back({make_parser(), {}});
  std::size_t next = 0;
  const auto finish = [&](Slot& slot) {
    if (!slot.done.valid()) return;
    slot.done.get();
    take(slot.parser);
  };
  const auto finish_all = [&] {
    for (std::size_t i = 0; i < slots.size(); ++i) finish(slots[(next + i) % slots.size()]);
  };
  while (true) {
    Slot& slot = slots[next];
    finish(slot);
    try {
      if (!blocks.next(slot.parser.block)) break;
    } catch (...) {
      finish_all();  // what stands before the damage may be the first error
      throw;
    }
    slot.done = std::async(std::launch::async, &Parser::parse, &slot.parser);
    next = (next + 1) % slots.size();
  }
  finish_all();
}

}  // namespace graphlora
