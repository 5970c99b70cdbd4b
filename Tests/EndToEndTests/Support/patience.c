// Loaded in front of the C library (LD_PRELOAD) of a process under test: a limited wait for room in standard output gets a
// limit that is a hundred times as long, so that no other load on the machine uses it up, and the file that PATIENCE names
// is created when such a wait begins. A wait without a limit, or with a limit of zero, stays as it is.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

int poll(struct pollfd *sources, nfds_t count, int milliseconds) {
  int (*real)(struct pollfd *, nfds_t, int) = (int (*)(struct pollfd *, nfds_t, int))dlsym(RTLD_NEXT, "poll");
  if (!real) abort();
  for (nfds_t index = 0; milliseconds > 0 && index < count; index++) {
    if (sources[index].fd != STDOUT_FILENO || !(sources[index].events & POLLOUT)) continue;
    // An event that is there already needs no wait.
    if (real(sources, count, 0) != 0) break;
    const char *path = getenv("PATIENCE");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file >= 0) close(file);
    return real(sources, count, milliseconds * 100);
  }
  return real(sources, count, milliseconds);
}
