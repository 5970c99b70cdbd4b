// Preloaded, it tells a program that the machine has one core, so that Swift's tasks have one thread. A test that blocks that
// thread until another task has run never ends then; on a machine with more cores it ends unless enough of its neighbours do the
// same.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

long sysconf(int name) {
  if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return 1;
  static long (*next)(int);
  if (!next) next = (long (*)(int))dlsym(RTLD_NEXT, "sysconf");
  return next(name);
}
