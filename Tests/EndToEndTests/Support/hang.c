// Loaded in front of the C library (LD_PRELOAD) of a process under test: a disk that does not respond. While the file that
// HANG names exists, no sync returns.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int when_it_answers(const char *name, int descriptor) {
  const char *hang = getenv("HANG");
  while (hang && access(hang, F_OK) == 0) usleep(10000);
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!real) abort();
  return real(descriptor);
}

int fsync(int descriptor) { return when_it_answers("fsync", descriptor); }

int fdatasync(int descriptor) { return when_it_answers("fdatasync", descriptor); }
