// The ways to compute a CRC-32C, shared by the files of this target. A caller chooses one way for a whole run of bytes, and
// the compiler inlines it.
#ifndef CRC32C_H
#define CRC32C_H

#include "CChecksum.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "fields are read as they stand in memory, which is little-endian"
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE uint32_t load32(const uint8_t *bytes) {
  uint32_t value;
  memcpy(&value, bytes, 4);
  return value;
}

ALWAYS_INLINE uint64_t load64(const uint8_t *bytes) {
  uint64_t value;
  memcpy(&value, bytes, 8);
  return value;
}

/// Every way has this contract: it returns the register after `length` more bytes.
typedef uint32_t (*crc_function)(uint32_t crc, const uint8_t *bytes, size_t length);

#if defined(__x86_64__)

#include <immintrin.h>

/// What the processor supports, detected before main.
extern int crc32c_has_instruction;
extern int crc32c_can_fold;

#define INSTRUCTION_TARGET __attribute__((target("sse4.2")))
#define FOLDING_TARGET                                                                                                 \
  __attribute__((target("sse4.2,pclmul,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,vpclmulqdq")))

INSTRUCTION_TARGET static inline uint32_t crc_by_instruction(uint32_t crc, const uint8_t *bytes, size_t length) {
  uint64_t running = crc;
  while (length >= 8) {
    running = _mm_crc32_u64(running, load64(bytes));
    bytes += 8;
    length -= 8;
  }
  crc = (uint32_t)running;
  if (length >= 4) {
    crc = _mm_crc32_u32(crc, load32(bytes));
    bytes += 4;
    length -= 4;
  }
  while (length--) {
    crc = _mm_crc32_u8(crc, *bytes++);
  }
  return crc;
}

/// Folding is faster from about this length on.
#define FOLDED_LENGTH_MIN 128

/// The powers of x that move 128 bits over a distance: 512 bits in all four lanes; 384, 256, 128 and 0 bits.
extern uint64_t crc32c_fold_by_block[8];
extern uint64_t crc32c_fold_lanes[8];

/// Carry-less multiplication, 64 bytes at a time: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using
/// PCLMULQDQ Instruction", Intel, 2009, here with four lanes in parallel. The bytes beyond a multiple of 64 come first,
/// with zeros in front of them, which do not change a register of zero; the register is added to the bytes that follow the
/// zeros. The CRC instruction reduces the last 128 bits.
///
/// The first load may begin in front of `bytes` but uses nothing from there: a masked load neither reads nor faults.
FOLDING_TARGET static inline uint32_t crc_by_folding(uint32_t crc, const uint8_t *bytes, size_t length) {
  if (length < FOLDED_LENGTH_MIN) {
    return crc_by_instruction(crc, bytes, length);
  }
  size_t first = length & 63;
  if (first > 0 && first < 4) {
    // The register's four bytes must not span two blocks.
    crc = _mm_crc32_u32(crc, load32(bytes));
    bytes += 4;
    length -= 4;
    first = length & 63;
  }
  unsigned zeros = (64 - (unsigned)first) & 63;
  const uint8_t *end = bytes + length;
  const __m512i by_block = _mm512_loadu_si512(crc32c_fold_by_block);
  __m512i folded = _mm512_xor_si512(
      _mm512_maskz_loadu_epi8(~0ull << zeros, bytes - zeros),
      _mm512_maskz_expand_epi8(0xFull << zeros, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc))));
  for (bytes += 64 - zeros; bytes < end; bytes += 64) {
    folded = _mm512_ternarylogic_epi64(
        _mm512_clmulepi64_epi128(folded, by_block, 0x00), _mm512_clmulepi64_epi128(folded, by_block, 0x11),
        _mm512_loadu_si512(bytes), 0x96);
  }
  const __m512i lanes = _mm512_loadu_si512(crc32c_fold_lanes);
  __m512i moved = _mm512_xor_si512(
      _mm512_clmulepi64_epi128(folded, lanes, 0x00), _mm512_clmulepi64_epi128(folded, lanes, 0x11));
  __m256i halves = _mm256_xor_si256(_mm512_castsi512_si256(moved), _mm512_extracti64x4_epi64(moved, 1));
  __m128i last = _mm_xor_si128(
      _mm_xor_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)),
      _mm512_extracti32x4_epi32(folded, 3));
  return (uint32_t)_mm_crc32_u64(
      _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last)), (uint64_t)_mm_extract_epi64(last, 1));
}

#endif

#endif
