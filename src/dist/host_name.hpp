// Name of the machine this rank runs on.
#pragma once
#include <string>

namespace graphlora {

std::string host_name();

}  // namespace graphlora
