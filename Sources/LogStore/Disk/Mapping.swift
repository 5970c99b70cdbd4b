import CLinux
import Glibc
import Synchronization

/// A file's bytes, mapped for reading while the object lives.
///
/// A page that the disk can't read, or that the file has lost since it was mapped, reads as zeros (CFaults.h), and the
/// mapping records that. So no byte that was read counts as a value, as the end of something or as a reason for "not there"
/// before the reader has asked the mapping: ``unreadablePosition(in:)`` after a check has failed, ``wasTouched(since:_:)``
/// after it has succeeded and bytes were read again or lent. If everything can be read, that compares one number.
///
/// Sendable although it holds pointers: nothing writes the memory through them, it stays mapped until `deinit`, which runs
/// only when no reference is left, and the record of unreadable pages is atomic.
final class Mapping: @unchecked Sendable {
  /// Advice to the kernel about a mapping. Refused advice costs only speed.
  enum Advice: Sendable {
    case randomAccess
    case readAhead(Range<Int>)
    case keepReady(Range<Int>)
  }

  /// The ways to ask the disk behind a mapping about pages that could not be read. Never used for a read that succeeds.
  struct Faults: Sendable {
    /// The record of unreadable pages, from before the first byte is touched until the mapping is released.
    let region: FaultRegion
    /// The current reason why a page can't be read, in words.
    let reason: @Sendable (_ position: Int) -> String
    /// Reads the pages again. Returns false if some still can't be read.
    let heal: @Sendable () -> Bool
    /// Whether the file of that name is another one now, or is gone, or has lost mapped bytes.
    let isOfOtherFile: @Sendable () -> Bool
  }

  /// How long unreadable pages are left alone before the next try.
  private static let restMilliseconds: UInt64 = 500

  let bytes: UnsafeRawBufferPointer
  private let advise: @Sendable (Advice) -> Void
  private let faults: Faults?
  private let release: (UnsafeRawBufferPointer) -> Void
  /// Milliseconds of the monotonic clock.
  private let healsAt = Atomic<UInt64>(0)

  /// - Parameter advise: called with ranges that lie in the mapping.
  /// - Parameter faults: nil for memory, which can always be read.
  init(
    bytes: UnsafeRawBufferPointer, advise: @escaping @Sendable (Advice) -> Void = { _ in }, faults: Faults? = nil,
    release: @escaping (UnsafeRawBufferPointer) -> Void
  ) {
    self.bytes = bytes
    self.advise = advise
    self.faults = faults
    self.release = release
  }

  /// A copy of bytes in memory, for bytes that are not in a file.
  convenience init(copying source: [UInt8]) {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(source.count, 1), alignment: 16)
    source.withUnsafeBytes { memory.copyMemory(from: $0) }
    self.init(bytes: UnsafeRawBufferPointer(rebasing: memory[..<source.count])) { _ in memory.deallocate() }
  }

  deinit {
    release(bytes)
  }

  /// From now on a page that comes from the disk is read alone. Otherwise the kernel reads megabytes around it, which suits
  /// sequential reading and pushes out of memory what queries still need.
  func expectRandomAccess() {
    advise(.randomAccess)
  }

  /// Asks the disk for bytes that will be read soon and may not be in memory, without waiting. This is a system call: use
  /// it only where a missing page costs much more.
  func readAhead(at position: Int, byteCount: Int) {
    if let range = part(position, byteCount) { advise(.readAhead(range)) }
  }

  /// Reads bytes that every query needs into memory, in pages as large as possible, and waits for them.
  func keepReady(at position: Int, byteCount: Int) {
    if let range = part(position, byteCount) { advise(.keepReady(range)) }
  }

  /// A range clamped to the mapping; nil if nothing is left.
  private func part(_ position: Int, _ byteCount: Int) -> Range<Int>? {
    guard position >= 0, position < bytes.count, byteCount > 0 else { return nil }
    return position..<position + min(byteCount, bytes.count - position)
  }

  // MARK: - Pages that can't be read

  /// nil for memory. Valid only while the mapping is held.
  var region: FaultRegion? { faults?.region }

  /// How often a page could not be read so far. If the number is unchanged, every byte read before the call was the file's.
  var faultCount: UInt64 { faults.map { clinux_region_fault_count($0.region.pointer) } ?? 0 }

  /// Whether a page of a range could not be read since the given fault count.
  func wasTouched(since count: UInt64, _ range: Range<Int>) -> Bool {
    guard let faults else { return false }
    return clinux_region_was_touched(
      faults.region.pointer, count, UInt64(range.lowerBound), UInt64(range.upperBound)) != 0
  }

  /// The first byte of a range that can't be read; nil if everything touched in the range could be read.
  func unreadablePosition(in range: Range<Int>) -> Int? {
    guard let faults, !range.isEmpty else { return nil }
    var position: UInt64 = 0
    let isUnreadable = clinux_region_is_unreadable(
      faults.region.pointer, UInt64(range.lowerBound), UInt64(range.upperBound), &position)
    return isUnreadable != 0 ? Int(position) : nil
  }

  /// The reason why a byte could not be read, in words. Asks the disk again.
  func reason(at position: Int) -> String {
    faults?.reason(position) ?? "can't be read"
  }

  /// The fault, or, if something can't be read, that instead. For files that can be built again, so that the difference
  /// does not matter.
  func explained(_ fault: Fault) -> Fault {
    guard let position = unreadablePosition(in: 0..<bytes.count) else { return fault }
    return Fault(position: position, reason: reason(at: position))
  }

  /// Reads again what could not be read, from time to time. Returns false while something can't be read.
  func heal() -> Bool {
    guard let faults, unreadablePosition(in: 0..<bytes.count) != nil else { return true }
    let now = MonotonicClock.milliseconds
    let due = healsAt.load(ordering: .relaxed)
    guard now >= due,
      healsAt.compareExchange(expected: due, desired: now + Self.restMilliseconds, ordering: .relaxed).exchanged
    else { return false }
    return faults.heal()
  }

  /// Whether the file was cut, removed or replaced since it was mapped. Then the disk is not at fault, and the file has to
  /// be mapped again. Asks the file system.
  var isOfOtherFile: Bool { faults?.isOfOtherFile() ?? false }
}

/// What the handler for unreadable pages records about a mapping.
///
/// Sendable although it holds a pointer: its target lives until the mapping is released, and any thread may use it
/// (CFaults.h).
struct FaultRegion: @unchecked Sendable {
  let pointer: UnsafeMutablePointer<clinux_region>
}

/// The fault count of all mappings of the process: the one number to compare where many mappings are read.
@inline(__always)
func faultCount() -> UInt64 { clinux_fault_count() }

/// The machine's clock that only goes forwards. Its start is arbitrary.
enum MonotonicClock {
  static var milliseconds: UInt64 { microseconds / 1000 }

  static var microseconds: UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
  }
}
