#include "core/progress.hpp"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

namespace graphlora {
namespace {

TEST(Progress, PlainOutputEndsWithOneLine) {
  testing::internal::CaptureStderr();
  {
    Progress progress("reading", 20, "rows");
    for (int row = 1; row <= 20; ++row) progress.update(row);
    progress.finish();
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("reading 100% 20/20 rows, "), 0u) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_EQ(text.find('\r'), std::string::npos);
}

TEST(Progress, NoteAndUnknownTotal) {
  testing::internal::CaptureStderr();
  {
    Progress progress("training", 0, "steps");
    progress.update(12345, "loss 0.612");
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("training 12.3k steps, "), 0u) << text;
  EXPECT_NE(text.find(", loss 0.612\n"), std::string::npos) << text;
  EXPECT_EQ(text.find('%'), std::string::npos);
}

TEST(Progress, SilentWhenDisabledOrUnused) {
  testing::internal::CaptureStderr();
  {
    Progress disabled("reading", 20, "rows", false);
    disabled.update(20);
    Progress unused("reading", 20, "rows");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Progress, RedrawsInPlaceOnATerminal) {
  int master = -1, slave = -1;
  ASSERT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  std::fflush(stderr);
  const int saved = dup(STDERR_FILENO);
  dup2(slave, STDERR_FILENO);
  {
    Progress progress("reading", 2, "rows");
    progress.update(1);
    progress.update(2);
  }
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(slave);
  std::string text(4096, '\0');
  const ssize_t size = read(master, text.data(), text.size());
  close(master);
  ASSERT_GT(size, 0);
  text.resize(size);
  EXPECT_EQ(text.find("\r\x1b[Kreading [########################] 100% 2/2 rows"), 0u) << text;
}

}  // namespace
}  // namespace graphlora
