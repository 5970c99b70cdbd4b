#include "CChecksum.h"

#include <string.h>

// The byte-wise table of the reflected polynomial, filled in before main so that no call has to test for it.
// Written there and never again, so every thread may read it.
static uint32_t table[256];
#if defined(__x86_64__)
static int supported;
#endif

__attribute__((constructor)) static void prepare(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  supported = cchecksum_has_hardware();
#endif
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) {
      value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0);
    }
    table[i] = value;
  }
}

uint32_t cchecksum_crc32c_portable(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *next = bytes;
  while (length--) {
    crc = (crc >> 8) ^ table[(crc ^ *next++) & 0xFF];
  }
  return crc;
}

#if defined(__x86_64__)

#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t hardware(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *next = bytes;
  uint64_t running = crc;
  while (length >= 8) {
    uint64_t word;
    memcpy(&word, next, 8);
    running = _mm_crc32_u64(running, word);
    next += 8;
    length -= 8;
  }
  crc = (uint32_t)running;
  if (length >= 4) {
    uint32_t word;
    memcpy(&word, next, 4);
    crc = _mm_crc32_u32(crc, word);
    next += 4;
    length -= 4;
  }
  while (length--) {
    crc = _mm_crc32_u8(crc, *next++);
  }
  return crc;
}

int cchecksum_has_hardware(void) { return __builtin_cpu_supports("sse4.2") ? 1 : 0; }

#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)

#include <arm_acle.h>

static uint32_t hardware(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *next = bytes;
  while (length >= 8) {
    uint64_t word;
    memcpy(&word, next, 8);
    crc = __crc32cd(crc, word);
    next += 8;
    length -= 8;
  }
  while (length--) {
    crc = __crc32cb(crc, *next++);
  }
  return crc;
}

int cchecksum_has_hardware(void) { return 1; }

#else

static uint32_t hardware(uint32_t crc, const void *bytes, size_t length) {
  return cchecksum_crc32c_portable(crc, bytes, length);
}

int cchecksum_has_hardware(void) { return 0; }

#endif

uint32_t cchecksum_crc32c(uint32_t crc, const void *bytes, size_t length) {
#if defined(__x86_64__)
  if (__builtin_expect(!supported, 0)) {
    return cchecksum_crc32c_portable(crc, bytes, length);
  }
#endif
  return hardware(crc, bytes, length);
}

uint32_t cchecksum_crc32c_placed(uint32_t crc, uint64_t place, const void *bytes, size_t length) {
  uint8_t encoded[8];
  for (int i = 0; i < 8; i++) {
    encoded[i] = (uint8_t)(place >> (8 * i));
  }
  return cchecksum_crc32c(cchecksum_crc32c(crc, encoded, 8), bytes, length);
}
