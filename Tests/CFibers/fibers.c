#define _GNU_SOURCE
#include "fibers.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

struct fiber {
  jmp_buf state;
  ucontext_t entry;
  void *memory;
  size_t memory_bytes;
  fiber_work work;
  void *argument;
  int has_begun;
};

fiber *fiber_of_thread(void) {
  fiber *made = calloc(1, sizeof *made);
  if (made) made->has_begun = 1;
  return made;
}

// makecontext passes ints: the address in two halves.
static void begin(unsigned low, unsigned high) {
  fiber *self = (fiber *)((uintptr_t)low | (uintptr_t)high << 32);
  for (;;) {
    fiber *next = self->work(self->argument);
    fiber_switch(self, next);
  }
}

fiber *fiber_make(size_t stack_bytes, fiber_work work, void *argument) {
  fiber *made = calloc(1, sizeof *made);
  if (!made) return NULL;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  made->memory_bytes = stack_bytes + page;
  made->memory = mmap(NULL, made->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made->memory == MAP_FAILED) {
    free(made);
    return NULL;
  }
  // Whoever uses more than the stack dies at once, and does not write into another one.
  mprotect(made->memory, page, PROT_NONE);
  made->work = work;
  made->argument = argument;
  getcontext(&made->entry);
  made->entry.uc_stack.ss_sp = (char *)made->memory + page;
  made->entry.uc_stack.ss_size = stack_bytes;
  made->entry.uc_link = NULL;
  uintptr_t address = (uintptr_t)made;
  makecontext(&made->entry, (void (*)(void))begin, 2, (unsigned)address, (unsigned)(address >> 32));
  return made;
}

void fiber_free(fiber *fiber) {
  if (fiber->memory) munmap(fiber->memory, fiber->memory_bytes);
  free(fiber);
}

// Without a system call, which swapcontext makes each time for the signal mask: that is the same everywhere here.
void fiber_switch(fiber *from, fiber *to) {
  if (_setjmp(from->state) != 0) return;
  if (!to->has_begun) {
    to->has_begun = 1;
    setcontext(&to->entry);
    abort();
  }
  _longjmp(to->state, 1);
}

enum { workers_max = 64 };
static volatile uint64_t seeds[workers_max];
static volatile int seeds_noted[workers_max];

void fiber_note_seed(int worker, uint64_t seed) {
  if (worker < 0 || worker >= workers_max) return;
  seeds[worker] = seed;
  seeds_noted[worker] = 1;
}

static void tell(int signal_number) {
  for (int worker = 0; worker < workers_max; worker++) {
    if (!seeds_noted[worker]) continue;
    char line[96];
    int count = snprintf(line, sizeof line, "crashed (signal %d), perhaps in LOGSTORE_SEED=%llu\n", signal_number,
                         (unsigned long long)seeds[worker]);
    if (count > 0 && write(2, line, (size_t)count) < 0) break;
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void fiber_report_crashes(void) {
  const int signals[] = {SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE};
  for (size_t index = 0; index < sizeof signals / sizeof *signals; index++) {
    // LogStore's own handler, once it has mapped a file, answers for pages that can't be read: that is no crash.
    struct sigaction present;
    if (signals[index] == SIGBUS && sigaction(SIGBUS, NULL, &present) == 0 && present.sa_handler != SIG_DFL) continue;
    signal(signals[index], tell);
  }
}
