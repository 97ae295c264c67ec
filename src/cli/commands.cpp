#include "cli/commands.hpp"

namespace graphlora {

std::span<const Command> commands() {
  static const std::vector<Command> all{};
  return all;
}

}  // namespace graphlora
