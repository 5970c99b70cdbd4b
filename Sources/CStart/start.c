#include "CStart.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

// Runs before anything else in the program, including the Swift runtime's threads, which open descriptors of their own. A
// program that was started with standard input, output or error closed would otherwise get one of these numbers for a file
// or a socket, and write its log lines there.
//
// Each descriptor is opened the wrong way round, so that reading and writing fail as on a closed descriptor (EBADF): output
// that nobody gets is still an error, and missing input is not an empty input.
__attribute__((constructor)) static void open_standard_descriptors(void) {
  for (int number = 0; number <= 2; number++) {
    if (fcntl(number, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one. Without /dev/null there is nothing else to open.
    if (open("/dev/null", number == 0 ? O_WRONLY : O_RDONLY) != number) _exit(1);
  }
}

static void end(int number) {
  (void)number;
  _exit(0);
}

void cstart_end_on(int number) {
  struct sigaction action = {.sa_handler = end};
  // Fails only for a number that is no signal.
  (void)sigaction(number, &action, NULL);
}

bool cstart_is_ignored(int number) {
  struct sigaction action;
  return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}
