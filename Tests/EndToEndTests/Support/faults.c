// What a program observes of the handler for unreadable pages: `faults CASE FILE`, with FILE a path to create a file at.
//
// Prints what the case shows; a case that must end by a signal ends by it.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <fcntl.h>

#include "CFaults.h"

static const size_t page = 4096;
static sigjmp_buf back;
static volatile uintptr_t told;

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  told = (uintptr_t)info->si_addr;
  siglongjmp(back, 1);
}

static void on_signal(int number) {
  (void)number;
  told = 1;
  siglongjmp(back, 1);
}

static void on_sent(int number) {
  (void)number;
  told++;
}

static int file;

// Pages of a file that has lost all but its first one.
static volatile char *map_cut(size_t pages) {
  if (ftruncate(file, (off_t)(pages * page)) != 0) exit(3);
  volatile char *bytes = mmap(NULL, pages * page, PROT_READ, MAP_SHARED, file, 0);
  if (bytes == MAP_FAILED) exit(3);
  return bytes;
}

static void cut(void) {
  if (ftruncate(file, (off_t)page) != 0) exit(3);
}

static clinux_region *add(volatile char *bytes, size_t pages) {
  clinux_region *region = clinux_region_add((const void *)bytes, pages * page);
  if (region == NULL) exit(3);
  return region;
}

int main(int count, char **words) {
  if (count != 3) return 64;
  const char *name = words[1];
  file = open(words[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (file < 0) return 3;

  struct sigaction action = {0};
  if (strcmp(name, "previous-with-info") == 0) {
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
  } else if (strcmp(name, "previous-plain") == 0) {
    action.sa_handler = on_signal;
    action.sa_flags = SA_NODEFER;
  } else if (strcmp(name, "previous-once") == 0) {
    action.sa_handler = on_sent;
    action.sa_flags = (int)SA_RESETHAND;
  } else if (strncmp(name, "ignored", 7) == 0) {
    action.sa_handler = SIG_IGN;
  } else {
    action.sa_handler = SIG_DFL;
  }
  sigaction(SIGBUS, &action, NULL);

  volatile char *known = map_cut(4);
  clinux_region *region = add(known, 4);
  volatile char *other = map_cut(4);
  cut();
  if (known[3 * page] != 0 || clinux_region_fault_count(region) != 2) return 4;
  printf("known\n");
  fflush(stdout);

  if (strcmp(name, "previous-with-info") == 0 || strcmp(name, "previous-plain") == 0) {
    if (sigsetjmp(back, 1) == 0) return other[2 * page];
    if (told != 1 && told != (uintptr_t)(other + 2 * page)) return 5;
    printf("told\n");
    // And it still recognises its own.
    if (known[2 * page] != 0 || clinux_region_fault_count(region) != 4) return 6;
    printf("known\n");
  } else if (strcmp(name, "previous-once") == 0) {
    raise(SIGBUS);
    if (told != 1) return 5;
    printf("told\n");
    fflush(stdout);
    raise(SIGBUS);
    return 6;
  } else if (strcmp(name, "ignored-sent") == 0) {
    raise(SIGBUS);
    printf("ignored\n");
  } else if (strcmp(name, "ignored-fault") == 0 || strcmp(name, "default-fault") == 0) {
    return other[2 * page];
  } else if (strcmp(name, "default-sent") == 0) {
    raise(SIGBUS);
    return 6;
  } else if (strcmp(name, "released") == 0) {
    // The address belongs to another mapping now, which did not ask for it.
    clinux_region_remove(region);
    volatile char *again = mmap(
        (void *)known, 4 * page, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
    return again == MAP_FAILED ? 3 : again[2 * page];
  } else if (strcmp(name, "reused") == 0) {
    clinux_region_remove(region);
    if (mmap((void *)known, 4 * page, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return 3;
    clinux_region *second = add(known, 4);
    if (clinux_region_fault_count(second) != 0 || known[page] != 0 || clinux_region_fault_count(second) != 2) return 5;
    printf("known\n");
  } else {
    return 64;
  }
  return 0;
}
