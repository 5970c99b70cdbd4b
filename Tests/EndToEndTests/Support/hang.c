// Loaded in front of the C library (LD_PRELOAD) of a process under test: a disk that does not respond, is slow, or fails. While the
// file that HANG names exists, its text says what a sync does: nothing or `hang`: it does not return; a number: it takes that many
// milliseconds longer; `error`: it fails. After a space, a part of the paths of the files that this is about.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Whether the file's path has this in it.
static int concerns(int descriptor, const char *part) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 1;
  path[length] = 0;
  return strstr(path, part) != NULL;
}

static int when_it_answers(const char *name, int descriptor) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!real) abort();
  const char *hang = getenv("HANG");
  for (FILE *file; hang && (file = fopen(hang, "re")) != NULL; usleep(10000)) {
    char what[32] = "", part[256] = "";
    int count = fscanf(file, "%31s %255s", what, part);
    fclose(file);
    if (count > 1 && !concerns(descriptor, part)) break;
    if (strcmp(what, "error") == 0) return errno = EIO, -1;
    int milliseconds = atoi(what);
    if (milliseconds > 0) {
      usleep((useconds_t)milliseconds * 1000);
      break;
    }
  }
  return real(descriptor);
}

int fsync(int descriptor) { return when_it_answers("fsync", descriptor); }

int fdatasync(int descriptor) { return when_it_answers("fdatasync", descriptor); }
