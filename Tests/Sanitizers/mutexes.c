// Tells the thread sanitizer what Swift's Mutex orders when threads meet at it: that part is in the runtime's library, which
// is not instrumented, so that without this everything that a contended mutex guards is reported as a race. Preloaded in
// front of libswiftSynchronization; x86-64 and arm64.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

extern void __tsan_acquire(void *) __attribute__((weak));
extern void __tsan_release(void *) __attribute__((weak));

#define SELF __attribute__((swift_context)) void *self
#define LOCK "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define TRY "$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF"
#define UNLOCK "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

typedef __attribute__((swiftcall)) void (*lock_call)(uint32_t, SELF);
typedef __attribute__((swiftcall)) _Bool (*try_call)(SELF);
typedef __attribute__((swiftcall)) void (*unlock_call)(SELF);

static void *next(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

__attribute__((swiftcall)) void lock(uint32_t state, SELF) __asm__(LOCK);
__attribute__((swiftcall)) void lock(uint32_t state, SELF) {
  ((lock_call)next(LOCK))(state, self);
  if (__tsan_acquire) __tsan_acquire(self);
}

__attribute__((swiftcall)) _Bool try_lock(SELF) __asm__(TRY);
__attribute__((swiftcall)) _Bool try_lock(SELF) {
  _Bool is_locked = ((try_call)next(TRY))(self);
  if (is_locked && __tsan_acquire) __tsan_acquire(self);
  return is_locked;
}

__attribute__((swiftcall)) void unlock(SELF) __asm__(UNLOCK);
__attribute__((swiftcall)) void unlock(SELF) {
  if (__tsan_release) __tsan_release(self);
  ((unlock_call)next(UNLOCK))(self);
}
