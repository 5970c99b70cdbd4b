import CLinux
import Glibc
import Synchronization

/// Bytes of a file, mapped for reading for as long as the object lives.
///
/// A page that the disk can't read, or that the file has lost since it was mapped, reads as zeros (CFaults.h), and the
/// mapping knows that. So nothing that was read is a value, the end of something or a reason for "not there" before the
/// mapping was asked: ``unreadablePosition(in:)`` where a check has failed, ``wasTouched(since:_:)`` where it has not and
/// bytes were read again or lent. Where nothing can't be read that is one number that has not changed.
///
/// Sendable though it holds pointers: the memory is never written through them, and stays until `deinit`, which can only
/// run when no reference is left; what is known of unreadable pages is atomic.
final class Mapping: @unchecked Sendable {
  /// What the kernel is told of a mapping. Advice that is refused costs speed and nothing else.
  enum Advice: Sendable {
    case randomAccess
    case readAhead(Range<Int>)
    case keepReady(Range<Int>)
  }

  /// How the disk behind a mapping is asked about pages that could not be read. Never on the way of a read that succeeds.
  struct Faults: Sendable {
    /// Where they are noted, from before the first byte is touched until the mapping is released.
    let region: FaultRegion
    /// Why a page can't be read, as it is now; in words.
    let reason: @Sendable (_ position: Int) -> String
    /// Reads them again. False if some still can't be read.
    let heal: @Sendable () -> Bool
    /// Whether the file of that name is another one now, or is gone, or has lost bytes that were mapped.
    let isOfOtherFile: @Sendable () -> Bool
  }

  /// How long pages that can't be read are left alone before they are tried again.
  private static let restMilliseconds: UInt64 = 500

  let bytes: UnsafeRawBufferPointer
  private let advise: @Sendable (Advice) -> Void
  private let faults: Faults?
  private let release: (UnsafeRawBufferPointer) -> Void
  /// Milliseconds of the monotonic clock.
  private let healsAt = Atomic<UInt64>(0)

  /// - Parameter advise: given positions that are in the mapping.
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

  /// A copy of bytes in memory, for what is not in a file.
  convenience init(copying source: [UInt8]) {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(source.count, 1), alignment: 16)
    source.withUnsafeBytes { memory.copyMemory(from: $0) }
    self.init(bytes: UnsafeRawBufferPointer(rebasing: memory[..<source.count])) { _ in memory.deallocate() }
  }

  deinit {
    release(bytes)
  }

  /// From now on a page that has to come from the disk is read by itself. Otherwise megabytes around it are, which suits
  /// reading in order and pushes out of memory what look-ups still need.
  func expectRandomAccess() {
    advise(.randomAccess)
  }

  /// Asks the disk for bytes that will be read soon and may not be in memory, without waiting for them. A system call:
  /// only where a page that is missing costs much more.
  func readAhead(at position: Int, byteCount: Int) {
    if let range = part(position, byteCount) { advise(.readAhead(range)) }
  }

  /// Reads bytes that every look-up needs into memory, in pages as large as can be, and waits for them.
  func keepReady(at position: Int, byteCount: Int) {
    if let range = part(position, byteCount) { advise(.keepReady(range)) }
  }

  /// As much of a part as there is; nil if there is nothing.
  private func part(_ position: Int, _ byteCount: Int) -> Range<Int>? {
    guard position >= 0, position < bytes.count, byteCount > 0 else { return nil }
    return position..<position + min(byteCount, bytes.count - position)
  }

  // MARK: - Pages that can't be read

  /// Nil for memory. Not to be used longer than the mapping is held.
  var region: FaultRegion? { faults?.region }

  /// How often a page could not be read so far. Every byte that was read before the call was the file's if the number is
  /// what it was before.
  var faultCount: UInt64 { faults.map { clinux_region_fault_count($0.region.pointer) } ?? 0 }

  /// Whether a page of a range could not be read after there had been so many faults.
  func wasTouched(since count: UInt64, _ range: Range<Int>) -> Bool {
    guard let faults else { return false }
    return clinux_region_was_touched(
      faults.region.pointer, count, UInt64(range.lowerBound), UInt64(range.upperBound)) != 0
  }

  /// The first byte of a range that can't be read; nil if all that was touched of it could be.
  func unreadablePosition(in range: Range<Int>) -> Int? {
    guard let faults, !range.isEmpty else { return nil }
    var position: UInt64 = 0
    let isUnreadable = clinux_region_is_unreadable(
      faults.region.pointer, UInt64(range.lowerBound), UInt64(range.upperBound), &position)
    return isUnreadable != 0 ? Int(position) : nil
  }

  /// Why a byte could not be read, in words. Asks the disk again.
  func reason(at position: Int) -> String {
    faults?.reason(position) ?? "can't be read"
  }

  /// A fault that was found in the mapping, or, if some of it can't be read, that: for what is not needed and may be made
  /// again, so that it does not matter which of both it is.
  func explained(_ fault: Fault) -> Fault {
    guard let position = unreadablePosition(in: 0..<bytes.count) else { return fault }
    return Fault(position: position, reason: reason(at: position))
  }

  /// Reads again what could not be read, now and then. False while some of it can't be.
  func heal() -> Bool {
    guard let faults, unreadablePosition(in: 0..<bytes.count) != nil else { return true }
    let now = MonotonicClock.milliseconds
    let due = healsAt.load(ordering: .relaxed)
    guard now >= due,
      healsAt.compareExchange(expected: due, desired: now + Self.restMilliseconds, ordering: .relaxed).exchanged
    else { return false }
    return faults.heal()
  }

  /// Whether the file was cut, removed or replaced since it was mapped: what can't be read then is no matter of the disk, and
  /// the file has to be mapped again as it is now. Asks the file system.
  var isOfOtherFile: Bool { faults?.isOfOtherFile() ?? false }
}

/// What the handler for unreadable pages knows of a mapping.
///
/// Sendable though it holds a pointer: what it leads to lives until the mapping is released, and all that is done with it
/// may be done from any thread (CFaults.h).
struct FaultRegion: @unchecked Sendable {
  let pointer: UnsafeMutablePointer<clinux_region>
}

/// Faults of all mappings of the process so far: the one number to look at where many mappings are read.
@inline(__always)
func faultCount() -> UInt64 { clinux_fault_count() }

/// The machine's clock that only goes forwards, from some moment on.
enum MonotonicClock {
  static var milliseconds: UInt64 { microseconds / 1000 }

  static var microseconds: UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
  }
}
