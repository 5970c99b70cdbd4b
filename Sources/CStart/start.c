#define _GNU_SOURCE
#include "CStart.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
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

// Swift's runtime reads the arguments from there. Without it a program would take them for none, show its help and report success:
// a backup that was never made.
__attribute__((constructor)) static void require_arguments(void) {
  if (access("/proc/self/cmdline", R_OK) == 0) return;
  dprintf(2, "%s: can't read its arguments: /proc/self/cmdline: %s; mount /proc (mount -t proc proc /proc)\n",
    program_invocation_short_name, strerror(errno));
  _exit(1);
}

// A umask that takes the owner's own rights would make directories that this program can't open a moment later.
__attribute__((constructor)) static void keep_owners_rights(void) { umask(umask(0077) & ~0700); }

static void *wait_for_end(void *lock) {
  pthread_mutex_lock(lock);
  pthread_mutex_unlock(lock);
  return NULL;
}

int cstart_startable_threads(int count) {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_t threads[count];
  int started = 0;
  pthread_mutex_lock(&lock);
  while (started < count && pthread_create(&threads[started], NULL, wait_for_end, &lock) == 0) started++;
  pthread_mutex_unlock(&lock);
  for (int index = 0; index < started; index++) pthread_join(threads[index], NULL);
  return started;
}

// Swift's runtime waits for ever for a thread that it can't have. So a program that gets too few says so. These are enough for every
// command; a server needs more, and checks that itself.
__attribute__((constructor)) static void require_threads(void) {
  const int needed = 8;
  int started = cstart_startable_threads(needed);
  if (started == needed) return;
  dprintf(2, "%s: the system lets it start %d threads, and it needs %d; end some processes or threads, or raise the limit "
    "(ulimit -u, ulimit -v, TasksMax= in the systemd unit)\n", program_invocation_short_name, started, needed);
  _exit(1);
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
