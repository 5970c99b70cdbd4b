import Testing

@testable import LogStore

/// Offsets and versions end below 2^63. No log grows so far, but a forged or damaged file may say so.
@Suite struct CountLimitTests {
  let directory = TemporaryDirectory()
  private static let limit = Limits.countLimit

  /// A sound store that begins with a gap, where a stream `t` had events up to a version.
  private func store(gapUpTo offset: UInt64, lastVersion: UInt64) throws {
    let disk = RealDisk()
    _ = try disk.makeDirectory(directory.path)
    var writer = SalvageWriter(
      directory.path, store: StoreHeader(storeID: StoreID(first: 1, second: 2), createdMicroseconds: 0), disk: disk)
    let lost = LostEvent(
      offset: offset - 1, stream: nil, version: lastVersion, key: LostEvent.key(ofStream: "t"))
    try writer.add(SalvagedGap(offsets: 0..<offset, damage: nil, events: [lost], streams: []))
    _ = try writer.finish()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }

  @Test(
    "an append whose event would get a version of 2^63 or more is refused, and the store stays sound",
    arguments: [limit - 3, limit - 2, limit - 1, limit, .max])
  func versions(last: UInt64) async throws {
    try store(gapUpTo: 5, lastVersion: last)
    let store = try LogStore.open(directory.path)
    let room = last < Self.limit ? Self.limit - 1 - last : 0
    for number in 0..<room {
      #expect(try await store.append(Append(event("t"))).versions == [last + number + 1])
    }
    await expectThrows({ if case .limitExceeded = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("t")))
    }
    // Others are not concerned.
    try await store.append(Append(event("u")))
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }

  @Test("an append whose event would get the offset 2^63 - 1 or more is refused, and the store stays sound")
  func offsets() async throws {
    try store(gapUpTo: Self.limit - 3, lastVersion: 1)
    let store = try LogStore.open(directory.path)
    try await store.append(Append(event("u")))
    await expectThrows({ if case .limitExceeded = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append([event("u"), event("u")]))
    }
    #expect(try await store.append(Append(event("u"))).offsets == Self.limit - 2..<Self.limit - 1)
    await expectThrows({ if case .limitExceeded = $0 { true } else { false } }) { () async throws(LogStoreError) in
      try await store.append(Append(event("u")))
    }
    let statistics = try store.reader.statistics()
    #expect(statistics.missingEvents == Self.limit - 3 && statistics.events == 2)
    try await store.close()
    #expect(try LogStore.verify(directory.path).findings.isEmpty)
  }

  @Test(
    "a record of a clean end that no segment can have is damage",
    arguments: [(5, 3), (5, 5 + 1 << 32), (0, 1 << 63), (0, .max), (1 << 63, 1 << 63)] as [(UInt64, UInt64)])
  func cleanEnd(base: UInt64, end: UInt64) throws {
    let bytes = CleanEnd(
      storeID: StoreID(first: 1, second: 2), endOffset: end, baseOffset: base, endPosition: 4096, chain: 0
    ).encoded()
    #expect(throws: HeaderFault.self) { try bytes.withUnsafeBytes { bytes throws(HeaderFault) in try CleanEnd(bytes) } }
  }

  @Test("a range of offsets has a length, however long it is")
  func lengths() {
    #expect((0..<UInt64.max).length == .max && (3..<3 as Range<UInt64>).length == 0)
    var report = RepairReport()
    report.missing = [RepairReport.Missing(offsets: 0..<Self.limit, damage: nil, events: [])]
    #expect(report.missingEvents == Self.limit)
  }
}
