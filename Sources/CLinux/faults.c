#define _GNU_SOURCE
#include "CFaults.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REGIONS_A_CHUNK = 128 };

// Never freed, so that the handler may search them at any time.
struct chunk {
  struct chunk *next;
  clinux_region regions[REGIONS_A_CHUNK];
};

uint64_t clinux_faults;

static struct chunk chunks;
static clinux_region *free_regions;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct sigaction previous;
static uint64_t page_bytes = 4096;

// An entry of `pages`: the page's number + 1 in 32 bits, the fault's number in 31, and whether the page is readable again.
static uint64_t entry_of(uint64_t page, uint64_t fault) { return (page + 1) << 32 | (fault & 0x7FFFFFFF) << 1; }
static uint64_t entry_page(uint64_t entry) { return (entry >> 32) - 1; }
static uint64_t entry_fault(uint64_t entry) { return entry >> 1 & 0x7FFFFFFF; }
static int entry_is_well(uint64_t entry) { return (int)(entry & 1); }

static uint64_t get(const uint64_t *value) { return __atomic_load_n(value, __ATOMIC_ACQUIRE); }

static int replace(uint64_t *value, uint64_t expected, uint64_t desired) {
  return __atomic_compare_exchange_n(value, &expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static void raise_to(uint64_t *value, uint64_t least) {
  for (uint64_t known = get(value); known < least && !replace(value, known, least); known = get(value)) {
  }
}

// Calls the kernel directly: a sanitizer may have replaced the C library's mmap.
static int map(uint64_t start, uint64_t byte_count, int flags, int descriptor, uint64_t position) {
  long result = syscall(SYS_mmap, start, byte_count, PROT_READ, MAP_FIXED | flags, descriptor, position);
  return result != -1;
}

// Records that a page can't be read. Returns whether the page is listed. If not, all of the mapping counts as unreadable
// from now on.
static int note(clinux_region *region, uint64_t page) {
  uint64_t fault = __atomic_add_fetch(&region->faults, 1, __ATOMIC_ACQ_REL);
  __atomic_add_fetch(&clinux_faults, 1, __ATOMIC_ACQ_REL);
  for (;;) {
    uint64_t *slot = NULL;
    uint64_t known = 0;
    for (int number = 0; number < CLINUX_PAGES_LISTED; number++) {
      uint64_t entry = get(&region->pages[number]);
      int is_same = entry != 0 && entry_page(entry) == page;
      // Prefers the page's own entry, then a free one, then one of a page that is readable again.
      if (is_same || (entry == 0 && (slot == NULL || known != 0)) ||
          (entry != 0 && entry_is_well(entry) && slot == NULL)) {
        slot = &region->pages[number];
        known = entry;
      }
      if (is_same) break;
    }
    if (slot == NULL) {
      raise_to(&region->all, fault);
      return 0;
    }
    // Before the entry goes: a reader that misses it must know that something is missing.
    if (known != 0 && entry_page(known) != page) raise_to(&region->forgotten, entry_fault(known));
    if (replace(slot, known, entry_of(page, fault))) return 1;
  }
}

// The mapping that an address is in. A mapping stays where it is while it is touched; others may come and go.
static clinux_region *find(uintptr_t address) {
  for (struct chunk *chunk = &chunks; chunk != NULL; chunk = __atomic_load_n(&chunk->next, __ATOMIC_ACQUIRE)) {
    for (int number = 0; number < REGIONS_A_CHUNK; number++) {
      clinux_region *region = &chunk->regions[number];
      uint64_t sequence = get(&region->sequence);
      if (sequence % 2 != 0) continue;
      uintptr_t start = __atomic_load_n(&region->start, __ATOMIC_RELAXED);
      uint64_t byte_count = __atomic_load_n(&region->byte_count, __ATOMIC_RELAXED);
      __atomic_thread_fence(__ATOMIC_ACQUIRE);
      if (__atomic_load_n(&region->sequence, __ATOMIC_RELAXED) != sequence) continue;
      if (address >= start && address - start < byte_count) return region;
    }
  }
  return NULL;
}

static void go_on(int number, siginfo_t *info, void *context) {
  int is_from_kernel = info->si_code > 0;
  if (previous.sa_flags & SA_SIGINFO || (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)) {
    struct sigaction handler = previous;
    sigset_t before;
    if (handler.sa_flags & (int)SA_RESETHAND) {
      struct sigaction none = {.sa_handler = SIG_DFL};
      sigaction(number, &none, NULL);
    }
    pthread_sigmask(SIG_BLOCK, &handler.sa_mask, &before);
    if (handler.sa_flags & SA_NODEFER) {
      sigset_t own;
      sigemptyset(&own);
      sigaddset(&own, number);
      pthread_sigmask(SIG_UNBLOCK, &own, NULL);
    }
    if (handler.sa_flags & SA_SIGINFO) {
      handler.sa_sigaction(number, info, context);
    } else {
      handler.sa_handler(number);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return;
  }
  // The kernel does not let a thread ignore a fault of its own.
  if (previous.sa_handler == SIG_IGN && !is_from_kernel) return;
  sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
  // A fault occurs again when this returns, at the same address, as a core dump should show it. A signal that was sent must
  // be sent again.
  if (!is_from_kernel) raise(number);
}

// Replaces a page that can't be read by zeros, or the whole mapping if no more pages can be listed. The fault is noted before,
// so that no reader sees zeros without the reason. It is noted again after: a reader may take the number of faults in between
// and still read the old page, and has to learn that the page changed.
static int put_zeros(clinux_region *region, uint64_t page) {
  int is_listed = note(region, page);
  for (;;) {
    uint64_t start = is_listed ? region->start + page * page_bytes : region->start;
    if (!map(start, is_listed ? page_bytes : region->byte_count, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) return 0;
    int is_still_listed = note(region, page);
    if (is_still_listed || !is_listed) return 1;
    is_listed = 0;
  }
}

static void handle(int number, siginfo_t *info, void *context) {
  int code = errno;
  uintptr_t address = (uintptr_t)info->si_addr;
  int is_ours = 0;
  // Not a signal that another process has sent, and not an unaligned address.
  if (info->si_code > 0 && info->si_code != BUS_ADRALN) {
    clinux_region *region = find(address);
    if (region != NULL) is_ours = put_zeros(region, (address - region->start) / page_bytes);
  }
  if (!is_ours) go_on(number, info, context);
  errno = code;
}

static void install(void) {
  page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  // This fails only for a signal that does not exist.
  sigaction(SIGBUS, &action, &previous);
}

clinux_region *clinux_region_add(const void *start, uint64_t byte_count) {
  pthread_once(&once, install);
  pthread_mutex_lock(&lock);
  static int is_first_used;
  if (free_regions == NULL) {
    struct chunk *chunk = &chunks;
    if (is_first_used) {
      struct chunk *made = calloc(1, sizeof *made);
      if (made == NULL) {
        pthread_mutex_unlock(&lock);
        return NULL;
      }
      made->next = NULL;
      while (chunk->next != NULL) chunk = chunk->next;
      __atomic_store_n(&chunk->next, made, __ATOMIC_RELEASE);
      chunk = made;
    }
    is_first_used = 1;
    for (int number = REGIONS_A_CHUNK - 1; number >= 0; number--) {
      // While a region is free, its start points to the next free one. Its length is 0, so no address is in it.
      chunk->regions[number].start = (uintptr_t)free_regions;
      free_regions = &chunk->regions[number];
    }
  }
  clinux_region *region = free_regions;
  free_regions = (clinux_region *)region->start;
  __atomic_add_fetch(&region->sequence, 1, __ATOMIC_ACQ_REL);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  __atomic_store_n(&region->start, (uintptr_t)start, __ATOMIC_RELAXED);
  __atomic_store_n(&region->byte_count, byte_count, __ATOMIC_RELAXED);
  __atomic_store_n(&region->faults, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&region->all, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&region->forgotten, 0, __ATOMIC_RELAXED);
  for (int number = 0; number < CLINUX_PAGES_LISTED; number++) {
    __atomic_store_n(&region->pages[number], 0, __ATOMIC_RELAXED);
  }
  __atomic_add_fetch(&region->sequence, 1, __ATOMIC_ACQ_REL);
  pthread_mutex_unlock(&lock);
  return region;
}

void clinux_region_remove(clinux_region *region) {
  pthread_mutex_lock(&lock);
  __atomic_add_fetch(&region->sequence, 1, __ATOMIC_ACQ_REL);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  __atomic_store_n(&region->byte_count, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&region->start, (uintptr_t)free_regions, __ATOMIC_RELAXED);
  __atomic_add_fetch(&region->sequence, 1, __ATOMIC_ACQ_REL);
  free_regions = region;
  pthread_mutex_unlock(&lock);
}

int clinux_region_was_touched(const clinux_region *region, uint64_t since, uint64_t first, uint64_t end) {
  if (clinux_region_fault_count(region) == since || first >= end) return 0;
  for (int number = 0; number < CLINUX_PAGES_LISTED; number++) {
    uint64_t entry = get(&region->pages[number]);
    if (entry == 0 || entry_fault(entry) <= since) continue;
    uint64_t page = entry_page(entry);
    if (page >= first / page_bytes && page <= (end - 1) / page_bytes) return 1;
  }
  // Checked after the pages, to see what left the list during the search.
  return get(&region->all) > since || get(&region->forgotten) > since;
}

int clinux_region_is_unreadable(const clinux_region *region, uint64_t first, uint64_t end, uint64_t *position) {
  if (clinux_region_fault_count(region) == 0 || first >= end) return 0;
  *position = first;
  if (get(&region->all) != 0) return 1;
  uint64_t least = UINT64_MAX;
  for (int number = 0; number < CLINUX_PAGES_LISTED; number++) {
    uint64_t entry = get(&region->pages[number]);
    if (entry == 0 || entry_is_well(entry)) continue;
    uint64_t page = entry_page(entry);
    if (page >= first / page_bytes && page <= (end - 1) / page_bytes && page < least) least = page;
  }
  if (least == UINT64_MAX) return 0;
  if (least * page_bytes > first) *position = least * page_bytes;
  return 1;
}

unsigned clinux_region_heal(clinux_region *region, int descriptor) {
  unsigned left = 0;
  char *bytes = malloc(page_bytes);
  if (bytes == NULL) return 1;
  uint64_t all = get(&region->all);
  if (all != 0 && map(region->start, region->byte_count, MAP_SHARED, descriptor, 0)) {
    raise_to(&region->forgotten, all);
    // If this fails, a page has failed meanwhile, and all of the mapping is zeros again.
    if (!replace(&region->all, all, 0)) left++;
  }
  for (int number = 0; number < CLINUX_PAGES_LISTED; number++) {
    uint64_t entry = get(&region->pages[number]);
    if (entry == 0 || entry_is_well(entry)) continue;
    uint64_t position = entry_page(entry) * page_bytes;
    // One byte would do, but this also notices a file that ends in the page.
    if (pread(descriptor, bytes, page_bytes, (off_t)position) > 0 &&
        map(region->start + position, page_bytes, MAP_SHARED, descriptor, position)) {
      // The page may have failed again meanwhile. Then its entry has another number and stays.
      if (replace(&region->pages[number], entry, entry | 1)) continue;
    }
    left++;
  }
  free(bytes);
  return left;
}

void clinux_region_note(clinux_region *region, uint64_t position) { note(region, position / page_bytes); }
