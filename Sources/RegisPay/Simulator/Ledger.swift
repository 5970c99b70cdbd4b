import LogStore

/// All charges of the simulator in the order of creation. Read from its log on request, a page at a time, so that any number of
/// charges takes no memory and other requests wait for a page at most.
struct Ledger: Sendable {
  let follower: LogFollower
  private var reader: LogReader { follower.reader }

  /// The most charges of a page.
  private static let pageLimit = 256

  /// Passes every charge that existed at the call to `body`, in its state when its page is read.
  func forEachPage(_ body: ([Charge]) async throws -> Void) async throws {
    let end = reader.endOffset
    var offset: UInt64 = 0
    while offset < end {
      let (charges, next) = try await RequestThreads.run(.long) { [offset] () throws(LogStoreError) in
        try page(from: offset)
      }
      if !charges.isEmpty { try await body(charges) }
      offset = next
      try Task.checkCancellation()
    }
  }

  private func page(from offset: UInt64) throws(LogStoreError) -> (charges: [Charge], next: UInt64) {
    var end = PortionEnd()
    var found: [(offset: UInt64, stream: String)] = []
    // Leaves out what can't be read; `/health` reports it.
    let next = try follower.forEachNow(from: offset) { event in
      if event.type.withUnsafeBytes({ $0.elementsEqual(Charge.EventType.created.rawValue.utf8) }) {
        found.append((event.offset, event.stream.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }))
      }
      return found.count < Self.pageLimit && !end.isReached(after: event.payload.byteCount)
    }
    var charges: [Charge] = []
    end = PortionEnd()
    for (offset, stream) in found {
      // At least one charge for each page, so that the loop ends.
      if !charges.isEmpty, end.isReached(after: Self.lookUpCost) { return (charges, offset) }
      if let charge = try charge(stream) { charges.append(charge) }
    }
    return (charges, next)
  }

  private func charge(_ stream: String) throws(LogStoreError) -> Charge? {
    do throws(LogStoreError) {
      return Charge(try follower.lookUp { reader throws(LogStoreError) in try reader.stream(stream) })
    } catch {
      guard error.isLocalDamage else { throw error }
      return nil
    }
  }

  /// The cost of a stream's look-up in bytes read, at least: the clock is read for every second look-up.
  private static let lookUpCost = 64 << 10

  /// Every charge that existed at the call.
  func all() async throws -> [Charge] {
    var charges: [Charge] = []
    try await forEachPage { charges += $0 }
    return charges
  }
}
