import CChecksum
import Glibc
import Testing

@testable import LogStore

@Suite struct FormatTests {
  @Test("CRC-32C gives the published check value, by the instruction and by the table, at every alignment")
  func crc32c() {
    let check = bytes("123456789")
    #expect(~cchecksum_crc32c(~0, check, check.count) == 0xE306_9283)
    #expect(~cchecksum_crc32c_portable(~0, check, check.count) == 0xE306_9283)
    let data = (0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 3) }
    data.withUnsafeBytes { data in
      for start in 0..<16 {
        for count in Array(0..<700) + [1000, 1023, 1024, 1025, 4000] {
          let part = data.baseAddress! + start
          let expected = cchecksum_crc32c_portable(77, part, count)
          #expect(cchecksum_crc32c(77, part, count) == expected)
          #expect(cchecksum_crc32c_instruction(77, part, count) == expected)
        }
      }
    }
  }

  @Test("a checksum reads nothing in front of its bytes and nothing behind them")
  func crc32cAtWalls() throws {
    let page = Int(getpagesize())
    let memory = try #require(mmap(nil, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
    defer { munmap(memory, 3 * page) }
    for index in 0..<3 * page {
      memory.storeBytes(of: UInt8(truncatingIfNeeded: index &* 7), toByteOffset: index, as: UInt8.self)
    }
    #expect(mprotect(memory, page, PROT_NONE) == 0 && mprotect(memory + 2 * page, page, PROT_NONE) == 0)
    for count in 0...600 {
      for part in [memory + page, memory + 2 * page - count] {
        #expect(cchecksum_crc32c(~0, part, count) == cchecksum_crc32c_portable(~0, part, count))
      }
    }
  }

  @Test("headers come back as they were written, and no other bytes pass for one")
  func headers() throws {
    let id = StoreID.random()
    let store = StoreHeader(storeID: id, createdMicroseconds: 5)
    let segment = SegmentHeader(
      storeID: id, baseOffset: 7, previousBaseOffset: 3, fileByteCount: 65536, createdMicroseconds: 9, chain: 11)
    let clean = CleanEnd(storeID: id, endOffset: 20, baseOffset: 7, endPosition: 4200, chain: 13)
    #expect(try store.encoded().withUnsafeBytes { try StoreHeader($0) } == store)
    #expect(try segment.encoded().withUnsafeBytes { try SegmentHeader($0) } == segment)
    #expect(try clean.encoded().withUnsafeBytes { try CleanEnd($0) } == clean)
    for encoded in [store.encoded(), clean.encoded()] {
      for position in encoded.indices {
        var damaged = encoded
        damaged[position] ^= 0x10
        #expect(throws: HeaderFault.self) { try damaged.withUnsafeBytes { _ = try StoreHeader($0) } }
        #expect(throws: HeaderFault.self) { try damaged.withUnsafeBytes { _ = try CleanEnd($0) } }
      }
    }
    #expect(throws: HeaderFault.self) { try [UInt8]().withUnsafeBytes { _ = try SegmentHeader($0) } }
  }

  @Test("a segment whose offsets can't be counted on from is refused", arguments: [1 << 63, UInt64.max - 1, .max])
  func greatestBase(base: UInt64) {
    func bytes(_ base: UInt64) -> [UInt8] {
      SegmentHeader(
        storeID: .random(), baseOffset: base, previousBaseOffset: 0, fileByteCount: 8192, createdMicroseconds: 1,
        chain: 2
      ).encoded()
    }
    #expect(throws: HeaderFault.self) { try bytes(base).withUnsafeBytes { _ = try SegmentHeader($0) } }
    #expect(throws: Never.self) { try bytes(1 << 63 - 1).withUnsafeBytes { _ = try SegmentHeader($0) } }
  }

  @Test("random bytes are no frame, no record and no index, and reading them ends")
  func hostileBytes() throws {
    let checksumSeed = ChecksumSeed(storeID: .random(), baseOffset: 0)
    var generator = SeededGenerator.printed()
    for _ in 0..<200 {
      let noise = (0..<8192).map { _ in UInt8.random(in: 0...255, using: &generator) }
      noise.withUnsafeBytes { noise in
        for position in stride(from: 0, to: 8192, by: 8) {
          #expect(FrameHeader(in: noise, at: position, checksumSeed: checksumSeed) == nil)
          #expect(Record(in: noise, at: position, limit: 8192, checksumSeed: checksumSeed) == nil)
        }
      }
    }
  }

  @Test(
    "event ids are written and read as UUIDs",
    arguments: [
      "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
      "123e4567-e89b-42d3-a456-426614174000",
    ])
  func eventIDs(text: String) throws {
    #expect(try #require(EventID(text)).description == text)
    #expect(EventID(text.uppercased()) == EventID(text))
    for bad in ["", text + "0", String(text.dropLast()), text.replacing("-", with: "_"), "g" + text.dropFirst()] {
      #expect(EventID(bad) == nil)
    }
    let random = EventID.random()
    #expect(EventID(random.description) == random)
  }
}
