import Foundation
import Testing

@testable import LogStore

/// A store of a program that did not know today's limits, or a forged one: everything is sound but the size.
@Suite struct OverLimitRepairTests {
  let directory = TemporaryDirectory()

  /// Writes a frame of events behind the end of a store that is closed, whatever its size.
  private func addFrame(_ payloadByteCounts: [Int], stream: String, firstVersion: UInt64) throws {
    let cleanPath = directory.file(FileName.clean)
    let end = try Data(contentsOf: URL(fileURLWithPath: cleanPath)).withUnsafeBytes { bytes in try CleanEnd(bytes) }
    let seed = ChecksumSeed(storeID: end.storeID, baseOffset: end.baseOffset)
    let position = Int(end.endPosition)
    var frame = FrameBuilder()
    for (number, byteCount) in payloadByteCounts.enumerated() {
      var record = [UInt8](repeating: 0, count: RecordField.fixedEnd)
      let content = bytes(stream) + bytes("T") + [UInt8](repeating: UInt8(ascii: "x"), count: byteCount)
      record.withUnsafeMutableBytes { record in
        record.set(UInt32(RecordField.fixedEnd + content.count), at: RecordField.byteCount)
        record.set(UInt8(1), at: RecordField.kind)
        record.set(UInt8(stream.utf8.count), at: RecordField.nameLength)
        record.set(UInt8(1), at: RecordField.typeLength)
      }
      frame.add(
        record + content, version: firstVersion + UInt64(number),
        relativeOffset: UInt32(end.endOffset - end.baseOffset) + UInt32(number), at: position, seed)
      frame.eventCount += 1
    }
    let header = frame.finish(
      at: position, seed, firstOffset: end.endOffset, timestamp: UInt64.max >> 2, syncedPosition: position,
      chain: end.chain, isSnapshot: false)
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: directory.file(FileName.segment(end.baseOffset))))
    try file.seek(toOffset: end.endPosition)
    try file.write(contentsOf: Data(UnsafeRawBufferPointer(frame.bytes)))
    try file.close()
    let next = CleanEnd(
      storeID: end.storeID, endOffset: end.endOffset + UInt64(payloadByteCounts.count), baseOffset: end.baseOffset,
      endPosition: end.endPosition + UInt64(header.byteCount), chain: header.checksum)
    try Data(next.encoded()).write(to: URL(fileURLWithPath: cleanPath))
  }

  @Test(
    "an event over the limit is a gap, a frame over the limit becomes several, and all else is saved",
    arguments: [([Limits.eventBytes + 1], 0), ([Int](repeating: 15 << 20, count: 5), 5)])
  func repair(payloadByteCounts: [Int], savedCount: Int) async throws {
    let store = try LogStore.open(directory.path, options: smallSegments(128 << 20))
    for _ in 0..<3 { try await store.append(Append(event("a"))) }
    try await store.close()
    try addFrame(payloadByteCounts, stream: "b", firstVersion: 1)
    try addFrame([10], stream: "a", firstVersion: 4)
    let findings = try LogStore.verify(directory.path).findings
    #expect(findings.contains { $0.reason.contains("the limit is") }, "\(findings)")
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.events == UInt64(4 + savedCount))
    #expect(report.missing.map(\.offsets) == (savedCount == 0 ? [3..<4] : []))
    #expect(try LogStore.verify(target.path).findings.isEmpty)
    let reader = try LogReader.open(target.path)
    #expect(try reader.stream("a").map(\.version) == [1, 2, 3, 4])
    #expect(try reader.stream("b").count == savedCount)
    reader.close()
  }

  @Test("a segment file that names an impossible offset is left out, and the rest is saved")
  func impossibleSegment() async throws {
    let store = try LogStore.open(directory.path)
    for _ in 0..<3 { try await store.append(Append(event("a"))) }
    try await store.close()
    let path = directory.file(FileName.segment(0))
    try FileManager.default.copyItem(atPath: path, toPath: directory.file(FileName.segment(Limits.countLimit)))
    let target = TemporaryDirectory()
    let report = try LogStore.repair(directory.path, to: target.path)
    #expect(report.events == 3 && !report.findings.isEmpty)
  }

  @Test("an index that claims more streams than it has events is no index")
  func streamCount() throws {
    var header = IndexHeader(
      storeID: StoreID(first: 1, second: 2), segments: [IndexedSegment(baseOffset: 5, endPosition: 4096, chain: 0)],
      endOffset: 8)
    for count in [3, 4, 1 << 63] as [UInt64] {
      header.newStreamCount = count
      var bytes = header.encoded()
      header.fileByteCount = bytes.count + 64
      bytes = header.encoded() + [UInt8](repeating: 0, count: 64)
      let found = bytes.withUnsafeBytes { bytes in Result { () throws(Fault) in try IndexHeader(bytes) } }
      // Of the first the sections can't be there, which is said behind this.
      guard case .failure(let fault) = found else { continue }
      #expect(fault.reason.contains("streams can't begin") == (count > 3), "\(fault.reason)")
    }
  }
}
