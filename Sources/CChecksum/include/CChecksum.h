// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected 0x82F63B78), as in RFC 3720, appendix B.4.
//
// `crc` arguments and results are the running register *without* the customary inversions. For the standard checksum, start
// with 0xFFFFFFFF and invert the result. Safe to call from any thread.
#ifndef CCHECKSUM_H
#define CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

#include "CFrame.h"

/// Updates `crc` with `length` bytes by table lookup. Works on every processor.
uint32_t cchecksum_crc32c_portable(uint32_t crc, const void *bytes, size_t length);

/// 1 where the processor has a CRC-32C instruction and the program was built to use it.
int cchecksum_has_hardware(void);

/// 1 where long inputs are folded by carry-less multiplication of 512 bits.
int cchecksum_can_fold(void);

typedef enum {
  CCHECKSUM_TABLE = 0,
  CCHECKSUM_INSTRUCTION = 1,
  CCHECKSUM_FOLDING = 2,
} cchecksum_way;

/// For tests and measurements: from now on the process uses no faster way than this one. All ways return the same results.
void cchecksum_use_at_most(cchecksum_way way);

/// Updates `crc` with `length` bytes by the CRC instruction alone, where there is one: three cycles for eight bytes.
uint32_t cchecksum_crc32c_instruction(uint32_t crc, const void *bytes, size_t length);

/// Updates `crc` with `length` bytes in the fastest way that the processor has.
uint32_t cchecksum_crc32c(uint32_t crc, const void *bytes, size_t length);

/// As `cchecksum_crc32c` over the eight bytes of `prefix`, little-endian, followed by `length` bytes.
uint32_t cchecksum_crc32c_prefixed(uint32_t crc, uint64_t prefix, const void *bytes, size_t length);

#endif
