import CSanitizer
import Glibc

/// Bytes that end where their page ends, with a page behind them and one before that nobody may touch: a read of one byte
/// too many ends the process, whether the code that does it was built with the address sanitizer or not. What is left of
/// the first page is poisoned.
///
/// Sendable though it can be written: the disk that owns it writes under its lock, and only where nobody reads yet, as
/// LogStore promises.
final class GuardedMemory: @unchecked Sendable {
  private static let pageByteCount = 4096

  private let region: UnsafeMutableRawPointer
  private let regionByteCount: Int
  private let slackByteCount: Int
  let bytes: UnsafeMutableRawBufferPointer

  init(byteCount: Int) {
    let page = Self.pageByteCount
    let inner = max((byteCount + page - 1) / page, 1) * page
    regionByteCount = inner + 2 * page
    guard
      let region = mmap(nil, regionByteCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), region != MAP_FAILED,
      mprotect(region + page, inner, PROT_READ | PROT_WRITE) == 0
    else { fatalError("no memory for \(byteCount) bytes") }
    self.region = region
    slackByteCount = inner - byteCount
    bytes = UnsafeMutableRawBufferPointer(start: region + page + slackByteCount, count: byteCount)
    csanitizer_poison(region + page, slackByteCount)
  }

  convenience init(_ content: [UInt8]) {
    self.init(byteCount: content.count)
    bytes.copyBytes(from: content)
  }

  deinit {
    csanitizer_unpoison(region + Self.pageByteCount, slackByteCount)
    munmap(region, regionByteCount)
  }
}
