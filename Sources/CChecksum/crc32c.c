#include "crc32c.h"

// The byte-wise table of the reflected polynomial. A constructor fills it before main, so no call has to test for it.
// Nothing writes it afterwards, so every thread may read it.
static uint32_t table[256];

/// The reflected polynomial.
static const uint32_t polynomial = 0x82F63B78u;

uint32_t cchecksum_crc32c_portable(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *next = bytes;
  while (length--) {
    crc = (crc >> 8) ^ table[(crc ^ *next++) & 0xFF];
  }
  return crc;
}

static void fill_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) {
      value = (value >> 1) ^ ((value & 1) ? polynomial : 0);
    }
    table[i] = value;
  }
}

#if defined(__x86_64__)

int crc32c_has_instruction;
int crc32c_can_fold;
uint64_t crc32c_fold_by_block[8];
uint64_t crc32c_fold_lanes[8];

/// x to the power of `bits`, modulo the polynomial, as a factor for a multiplication of 64 reflected bits.
static uint64_t power(int bits) {
  uint32_t value = 0x80000000u;
  while (bits--) {
    value = (value >> 1) ^ ((value & 1) ? polynomial : 0);
  }
  return (uint64_t)value << 1;
}

static void find_ways(void) {
  __builtin_cpu_init();
  crc32c_has_instruction = __builtin_cpu_supports("sse4.2") ? 1 : 0;
  crc32c_can_fold = crc32c_has_instruction && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx512f") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi2") &&
                    __builtin_cpu_supports("vpclmulqdq");
}

__attribute__((constructor)) static void prepare(void) {
  fill_table();
  for (int lane = 0; lane < 4; lane++) {
    crc32c_fold_by_block[2 * lane] = power(512 + 32);
    crc32c_fold_by_block[2 * lane + 1] = power(512 - 32);
    int distance = 128 * (3 - lane);
    crc32c_fold_lanes[2 * lane] = distance ? power(distance + 32) : 0;
    crc32c_fold_lanes[2 * lane + 1] = distance ? power(distance - 32) : 0;
  }
  find_ways();
}

void cchecksum_use_at_most(cchecksum_way way) {
  find_ways();
  crc32c_has_instruction &= way >= CCHECKSUM_INSTRUCTION;
  crc32c_can_fold &= way >= CCHECKSUM_FOLDING;
}

int cchecksum_has_hardware(void) { return crc32c_has_instruction; }
int cchecksum_can_fold(void) { return crc32c_can_fold; }

INSTRUCTION_TARGET static uint32_t instruction(uint32_t crc, const void *bytes, size_t length) {
  return crc_by_instruction(crc, bytes, length);
}

FOLDING_TARGET static uint32_t folded(uint32_t crc, const void *bytes, size_t length) {
  return crc_by_folding(crc, bytes, length);
}

uint32_t cchecksum_crc32c(uint32_t crc, const void *bytes, size_t length) {
  if (crc32c_can_fold && length >= FOLDED_LENGTH_MIN) {
    return folded(crc, bytes, length);
  }
  return cchecksum_crc32c_instruction(crc, bytes, length);
}

uint32_t cchecksum_crc32c_instruction(uint32_t crc, const void *bytes, size_t length) {
  if (__builtin_expect(!crc32c_has_instruction, 0)) {
    return cchecksum_crc32c_portable(crc, bytes, length);
  }
  return instruction(crc, bytes, length);
}

#else

__attribute__((constructor)) static void prepare(void) { fill_table(); }

int cchecksum_can_fold(void) { return 0; }

void cchecksum_use_at_most(cchecksum_way way) { (void)way; }

#if defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)

#include <arm_acle.h>

int cchecksum_has_hardware(void) { return 1; }

uint32_t cchecksum_crc32c_instruction(uint32_t crc, const void *bytes, size_t length) {
  const uint8_t *next = bytes;
  while (length >= 8) {
    crc = __crc32cd(crc, load64(next));
    next += 8;
    length -= 8;
  }
  while (length--) {
    crc = __crc32cb(crc, *next++);
  }
  return crc;
}

#else

int cchecksum_has_hardware(void) { return 0; }

uint32_t cchecksum_crc32c_instruction(uint32_t crc, const void *bytes, size_t length) {
  return cchecksum_crc32c_portable(crc, bytes, length);
}

#endif

uint32_t cchecksum_crc32c(uint32_t crc, const void *bytes, size_t length) {
  return cchecksum_crc32c_instruction(crc, bytes, length);
}

#endif

uint32_t cchecksum_crc32c_prefixed(uint32_t crc, uint64_t prefix, const void *bytes, size_t length) {
  // Memory is little-endian (crc32c.h), so the prefix's own bytes are the right ones.
  return cchecksum_crc32c(cchecksum_crc32c_instruction(crc, &prefix, 8), bytes, length);
}
