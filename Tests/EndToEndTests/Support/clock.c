// Loaded in front of the C library of one process: a calendar that is wrong by the number of seconds in the file
// SHIFTED_CLOCK, which is read ten times a second. Monotonic time is unchanged.
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_long shift_seconds;
static atomic_llong looked_at = -1;

static long shift(void) {
  struct timespec passed;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &passed);
  long long look = passed.tv_sec * 10LL + passed.tv_nsec / 100000000;
  if (atomic_exchange(&looked_at, look) != look) {
    const char *path = getenv("SHIFTED_CLOCK");
    FILE *file = path ? fopen(path, "re") : NULL;
    long seconds = 0;
    if (file) {
      if (fscanf(file, "%ld", &seconds) == 1) atomic_store(&shift_seconds, seconds);
      fclose(file);
    }
  }
  return atomic_load(&shift_seconds);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift();
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}
