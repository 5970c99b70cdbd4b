#define _GNU_SOURCE
#include "CStart.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
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

// The thread that takes signals, and what it does about the first one.
static struct {
  _Atomic pid_t thread;
  sigset_t numbers;
  void (*action)(void *);
  void *context;
  sem_t started;
} awaited;

// The thread blocks the signal, so the signal stays pending there until the thread asks for it.
static void pass_on(int number) {
  int known = errno;
  (void)tgkill(getpid(), atomic_load(&awaited.thread), number);
  errno = known;
}

static void *await_signals(void *unused) {
  (void)unused;
  // Others stay as they are for any thread: a crash's report stops all threads by a signal, and waits for them.
  pthread_sigmask(SIG_SETMASK, &awaited.numbers, NULL);
  atomic_store(&awaited.thread, gettid());
  sem_post(&awaited.started);
  bool is_first = true;
  // It never ends: another thread could get its number.
  while (true) {
    // The kernel may have chosen a thread that hangs in the disk's driver. The signal then stays pending for the process, and only a
    // new call finds it there.
    const struct timespec second = {.tv_sec = 1};
    if (sigtimedwait(&awaited.numbers, NULL, &second) < 0 || !is_first) continue;
    is_first = false;
    awaited.action(awaited.context);
  }
  return NULL;
}

int cstart_on_signals(const int *numbers, int count, void *context, void (*action)(void *)) {
  awaited.context = context;
  awaited.action = action;
  sigemptyset(&awaited.numbers);
  for (int index = 0; index < count; index++) sigaddset(&awaited.numbers, numbers[index]);
  sem_init(&awaited.started, 0, 0);
  pthread_t thread;
  int code = pthread_create(&thread, NULL, await_signals, NULL);
  if (code != 0) return code;
  pthread_detach(thread);
  while (sem_wait(&awaited.started) != 0) {}
  struct sigaction handler = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
  for (int index = 0; index < count; index++) (void)sigaction(numbers[index], &handler, NULL);
  return 0;
}

static void fail(int number) {
  (void)number;
  _exit(1);
}

void cstart_fail(const char *line, size_t count) {
  // In case the write waits all the same, as for a terminal that was stopped a moment ago.
  struct sigaction handler = {.sa_handler = fail};
  sigset_t alarms;
  sigemptyset(&alarms);
  sigaddset(&alarms, SIGALRM);
  if (sigaction(SIGALRM, &handler, NULL) == 0 && pthread_sigmask(SIG_UNBLOCK, &alarms, NULL) == 0) alarm(2);
  struct pollfd output = {.fd = 2, .events = POLLOUT};
  if (poll(&output, 1, 1000) > 0) (void)!write(2, line, count);
  _exit(1);
}
