import Glibc
import Synchronization

/// The ``DamageMap`` of each segment that was found damaged since the store was opened. Thread-safe.
final class DamageMaps: Sendable {
  /// How long a range must be unreadable before readers pass over it. What a disk can't read for a moment must not be left
  /// out for good.
  static let patienceMilliseconds: UInt64 = 30_000
  /// How long a map of a segment that the disk could not read is valid.
  static let unreadableMilliseconds: UInt64 = 60_000
  /// The greatest number of maps. Over that, the oldest one is dropped, and built again when it is needed.
  private static let limit = 64

  /// How long a map is valid for a file that is cut, missing or without a sound header. After that, readers check whether
  /// the file was put back.
  static let fileMilliseconds: UInt64 = 1_000

  private let disk: any Disk
  private let maps = Mutex<[(baseOffset: UInt64, map: DamageMap, madeMilliseconds: UInt64)]>([])
  /// The times when the disk first and last could not read a segment.
  private let unreadable = Mutex<[UInt64: (since: UInt64, last: UInt64)]>([:])
  /// Held while a map is built, so that many readers of the same damage read the segment once.
  private let making = Mutex(())
  private let isEmpty = Atomic(true)

  init(_ disk: any Disk) { self.disk = disk }

  /// Costs one atomic load while nothing is damaged.
  subscript(baseOffset: UInt64) -> DamageMap? {
    if isEmpty.load(ordering: .acquiring) { return nil }
    guard let (_, map, made) = maps.withLock({ $0.first { $0.baseOffset == baseOffset } }) else { return nil }
    if let life = Self.life(of: map), disk.monotonicMilliseconds() > made + life { return nil }
    // The disk can read the segment again, so nothing of it may be left out.
    if map.segment.mapping.faultCount > 0, map.segment.mapping.heal() { return nil }
    return map
  }

  /// In milliseconds; nil for a map that is valid until the store is closed.
  private static func life(of map: DamageMap) -> UInt64? {
    if map.segment.fileError != nil { return fileMilliseconds }
    return map.isOfUnreadable ? unreadableMilliseconds : nil
  }

  /// The last map, if it describes the same file in the same state.
  fileprivate func stillTrue(for segment: Segment) -> DamageMap? {
    guard let error = segment.fileError else { return nil }
    return maps.withLock { maps in
      maps.first { $0.baseOffset == segment.baseOffset && $0.map.segment.fileError == error && !$0.map.isOfUnreadable }?
        .map
    }
  }

  /// Whether a segment has been unreadable for long enough to be passed over.
  func isPatienceOver(_ baseOffset: UInt64) -> Bool {
    let now = disk.monotonicMilliseconds()
    return unreadable.withLock { unreadable in
      // An unreadable period ends after a while without errors, even if no read has reported success.
      guard let known = unreadable[baseOffset], now < known.last + Self.unreadableMilliseconds else {
        if unreadable.count >= Self.limit { unreadable.removeAll() }
        unreadable[baseOffset] = (now, now)
        return false
      }
      unreadable[baseOffset] = (known.since, now)
      return now >= known.since + Self.patienceMilliseconds
    }
  }

  /// Notes that all of a segment could be read.
  fileprivate func forget(_ baseOffset: UInt64) {
    unreadable.withLock { $0[baseOffset] = nil }
    maps.withLock { $0.removeAll { $0.baseOffset == baseOffset } }
  }

  fileprivate func insert(_ map: DamageMap) {
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
  /// The map of a damaged segment; nil if all of the segment is sound. The first call reads all of the segment.
  ///
  /// - Parameter end: the durable end; needed only for the log's last segment.
  /// - Parameter known: a map that turned out to be out of date: a new one is built.
  func damageMap(
    of baseOffset: UInt64, upTo end: DurableEnd?, insteadOf known: DamageMap? = nil
  ) throws(LogStoreError) -> DamageMap? {
    try damageMaps.makeOne { () throws(LogStoreError) in
      try unsharedDamageMap(of: baseOffset, upTo: end, insteadOf: known)
    }
  }

  /// The same, without waiting for another thread that reads the same segment: for the thread that builds index files, which waits
  /// for the disk more often than readers do.
  func unsharedDamageMap(
    of baseOffset: UInt64, upTo end: DurableEnd?, insteadOf known: DamageMap? = nil
  ) throws(LogStoreError) -> DamageMap? {
    if let map = damageMaps[baseOffset], map !== known { return map }
    let map: DamageMap
    if let bound = endOffset(of: baseOffset) {
      let segment = try Segment.openDamaged(
        join(directory, FileName.segment(baseOffset)), baseOffset: baseOffset, storeID: storeID, disk: disk)
      if let map = damageMaps.stillTrue(for: segment), map !== known {
        damageMaps.insert(map)
        return map
      }
      let endChain = try endChain(of: baseOffset).value
      var builder = DamageMapBuilder(
        segment, bound: bound, limit: segment.bytes.count, endChain: endChain
      ) { self.ownListedEvents(of: baseOffset, endChain: endChain) }
      map = builder.make()
    } else {
      guard let end, end.baseOffset == baseOffset else { return nil }
      var builder = DamageMapBuilder(open.segment, bound: end.offset, limit: end.position, endChain: nil) { nil }
      map = builder.make()
    }
    if map.ranges.isEmpty {
      damageMaps.forget(baseOffset)
      return nil
    }
    damageMaps.insert(map)
    return map
  }

  /// Checks that the log is sound where an index was wrong. Throws the damage otherwise.
  func checkLog(_ baseOffset: UInt64) throws(LogStoreError) {
    if let error = indexObstacle(of: baseOffset) { throw error }
    do throws(LogStoreError) {
      _ = try builtIndex(try segment(baseOffset), rebuilding: true)
    } catch {
      if error.isOfTheFile, endOffset(of: baseOffset) != nil {
        // Stores the map, so that the next query for lost events does not read all of the segment again.
        _ = try damageMap(of: baseOffset, upTo: nil)
      }
      throw error
    }
  }

  /// The append time of a sound record whose frame's header is damaged: the time of the frame before, as a repair would set
  /// it. Returns nil where readers do not pass over damage, or if the record is not known to be sound.
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
  /// Whether the file itself is at fault: damaged, gone, or unreadable for the disk.
  var isOfTheFile: Bool {
    if case .inputOutput(_, _, ENOENT) = self { return true }
    return finding != nil
  }
}
