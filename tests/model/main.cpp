#include "support/rank_main.hpp"

int main(int argc, char** argv) { return graphlora::test::rank_main(argc, argv); }
