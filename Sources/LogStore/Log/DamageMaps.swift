import Glibc
import Synchronization

/// The ``DamageMap`` of each segment that was found damaged since the store was opened. May be used from any thread.
final class DamageMaps: Sendable {
  /// How long a place has to be unreadable until it is passed over: what a disk can't read for a moment must not be left out
  /// for good.
  static let patienceMilliseconds: UInt64 = 30_000
  /// How long a map of a segment that the disk could not read counts.
  static let unreadableMilliseconds: UInt64 = 60_000
  /// Maps kept; over that the oldest goes, and is made again when it is needed.
  private static let limit = 64

  /// How long a map of a file that is cut, missing or without a sound header counts, until it is looked whether the file
  /// was put back.
  static let fileMilliseconds: UInt64 = 1_000

  private let disk: any Disk
  private let maps = Mutex<[(baseOffset: UInt64, map: DamageMap, madeMilliseconds: UInt64)]>([])
  /// When a segment was met first, and last, that the disk could not read.
  private let unreadable = Mutex<[UInt64: (since: UInt64, last: UInt64)]>([:])
  /// Held by whoever makes one, so that many who meet the same damage read the segment once.
  private let making = Mutex(())
  private let isEmpty = Atomic(true)

  init(_ disk: any Disk) { self.disk = disk }

  /// Costs one load while nothing is damaged.
  subscript(baseOffset: UInt64) -> DamageMap? {
    if isEmpty.load(ordering: .acquiring) { return nil }
    guard let (_, map, made) = maps.withLock({ $0.first { $0.baseOffset == baseOffset } }) else { return nil }
    if let life = Self.life(of: map), disk.monotonicMilliseconds() > made + life { return nil }
    // The disk can read it again: nothing of it may be left out.
    if map.segment.mapping.faultCount > 0, map.segment.mapping.heal() { return nil }
    return map
  }

  /// Milliseconds; nil for a map that counts until the store is closed.
  private static func life(of map: DamageMap) -> UInt64? {
    if map.segment.fileError != nil { return fileMilliseconds }
    return map.isOfUnreadable ? unreadableMilliseconds : nil
  }

  /// The map that was made last, if it is of the same file in the same state.
  fileprivate func stillTrue(for segment: Segment) -> DamageMap? {
    guard let error = segment.fileError else { return nil }
    return maps.withLock { maps in
      maps.first { $0.baseOffset == segment.baseOffset && $0.map.segment.fileError == error && !$0.map.isOfUnreadable }?
        .map
    }
  }

  /// Whether what the disk can't read of a segment has been so for long enough to be passed over.
  func isPatienceOver(_ baseOffset: UInt64) -> Bool {
    let now = disk.monotonicMilliseconds()
    return unreadable.withLock { unreadable in
      // A while without is the end of it, though nobody has said so.
      guard let known = unreadable[baseOffset], now < known.last + Self.unreadableMilliseconds else {
        if unreadable.count >= Self.limit { unreadable.removeAll() }
        unreadable[baseOffset] = (now, now)
        return false
      }
      unreadable[baseOffset] = (known.since, now)
      return now >= known.since + Self.patienceMilliseconds
    }
  }

  /// All of a segment could be read.
  fileprivate func forget(_ baseOffset: UInt64) {
    unreadable.withLock { $0[baseOffset] = nil }
    maps.withLock { $0.removeAll { $0.baseOffset == baseOffset } }
  }

  fileprivate func keep(_ map: DamageMap) {
    maps.withLock { maps in
      maps.removeAll { $0.baseOffset == map.segment.baseOffset }
      if maps.count == Self.limit { maps.removeFirst() }
      maps.append((map.segment.baseOffset, map, disk.monotonicMilliseconds()))
    }
    isEmpty.store(false, ordering: .releasing)
  }

  fileprivate func makeOne(
    _ make: () throws(LogStoreError) -> DamageMap?
  ) throws(LogStoreError) -> DamageMap? {
    var failure: LogStoreError?
    let map = making.withLock { _ -> DamageMap? in
      do throws(LogStoreError) {
        return try make()
      } catch {
        failure = error
        return nil
      }
    }
    if let failure { throw failure }
    return map
  }
}

extension SegmentSet {
  /// What is sound of a segment that is damaged; nil if all of it is sound. Reads all of it the first time.
  ///
  /// - Parameter end: how far the log is durable; needed for its last segment only.
  /// - Parameter known: a map that turned out to be out of date: another one is made.
  func damageMap(
    of baseOffset: UInt64, upTo end: DurableEnd?, insteadOf known: DamageMap? = nil
  ) throws(LogStoreError) -> DamageMap? {
    try damageMaps.makeOne { () throws(LogStoreError) in
      if let map = damageMaps[baseOffset], map !== known { return map }
      let map: DamageMap
      if let bound = endOffset(of: baseOffset) {
        let segment = try Segment.openDamaged(
          join(directory, FileName.segment(baseOffset)), baseOffset: baseOffset, storeID: storeID, disk: disk)
        if let map = damageMaps.stillTrue(for: segment), map !== known {
          damageMaps.keep(map)
          return map
        }
        // If the one behind it can't be opened, whoever reads that will say so.
        let next = successor(of: baseOffset).flatMap { try? self.segment($0) }
        var builder = DamageMapBuilder(
          segment, bound: bound, limit: segment.bytes.count,
          endChain: next.flatMap { $0.hasOwnHeader ? $0.header.chain : nil })
        map = builder.make()
      } else {
        guard let end, end.baseOffset == baseOffset else { return nil }
        var builder = DamageMapBuilder(open.segment, bound: end.offset, limit: end.position, endChain: nil)
        map = builder.make()
      }
      if map.ranges.isEmpty {
        damageMaps.forget(baseOffset)
        return nil
      }
      damageMaps.keep(map)
      return map
    }
  }

  /// Makes certain that the log is sound where an index has led astray; otherwise throws what is damaged.
  func checkLog(_ baseOffset: UInt64) throws(LogStoreError) {
    if let error = damageMaps[baseOffset]?.worst { throw error }
    do throws(LogStoreError) {
      _ = try builtIndex(try segment(baseOffset), anew: true)
    } catch {
      if error.isOfTheFile, endOffset(of: baseOffset) != nil {
        // Remembered, so that the next one who asks for what is lost does not read all of the segment again.
        _ = try damageMap(of: baseOffset, upTo: nil)
      }
      throw error
    }
  }

  /// When a sound record was appended whose frame's header is damaged: at the time of the frame before, as a repair would
  /// say. Nil where damage is not passed over, or the record is not known to be sound.
  func guessedTimestamp(of record: Record, in segment: Segment) -> UInt64? {
    guard servesDamaged, endOffset(of: segment.baseOffset) != nil,
      let map = try? damageMap(of: segment.baseOffset, upTo: nil),
      case .records(_, let timestamp)? = map.piece(
        holding: segment.baseOffset + UInt64(record.relativeOffset))?.content
    else { return nil }
    return timestamp
  }
}

extension LogStoreError {
  /// The file itself is at fault: it is damaged, or gone, or the disk can't read it.
  var isOfTheFile: Bool {
    if case .inputOutput(_, _, ENOENT) = self { return true }
    return finding != nil
  }
}
