// CRC-32C (Castagnoli, polynomial 0x1EDC6F41, reflected 0x82F63B78), as in RFC 3720 appendix B.4.
//
// `crc` arguments and results are the running register *without* the customary inversions; callers that want the
// standard checksum start from 0xFFFFFFFF and invert at the end. Safe to call from any thread.
#ifndef CCHECKSUM_H
#define CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/// Updates `crc` with `length` bytes, by table lookup; works everywhere.
uint32_t cchecksum_crc32c_portable(uint32_t crc, const void *bytes, size_t length);

/// 1 where the processor has a CRC-32C instruction and the program was built to use it.
int cchecksum_has_hardware(void);

/// Updates `crc` with `length` bytes, by the instruction where there is one.
uint32_t cchecksum_crc32c(uint32_t crc, const void *bytes, size_t length);

/// As `cchecksum_crc32c` over the eight bytes of `place`, little-endian, and then `length` bytes.
uint32_t cchecksum_crc32c_placed(uint32_t crc, uint64_t place, const void *bytes, size_t length);

/// Asks the processor to fetch the cache line of an address that will be read soon. Any address is allowed: one that is
/// not mapped is left alone.
static inline void cchecksum_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }

#endif
