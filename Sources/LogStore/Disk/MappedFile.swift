import CLinux
import Glibc
import Synchronization

/// The file behind a mapping, read again when a page of it could not be read. Mappings hold no descriptor, since there are
/// thousands of them, so it is opened for that.
struct MappedFile: Sendable {
  let path: String
  let identity: FileIdentity

  /// Opens the file, if it is still the one that was mapped.
  private func open() -> Result<Descriptor, MappedFileFailure> {
    do throws(LogStoreError) {
      let descriptor = try Descriptor(path, O_RDONLY, operation: "open")
      guard try FileIdentity(descriptor.number, path) == identity else { return .failure(MappedFileFailure(code: nil)) }
      return .success(descriptor)
    } catch {
      guard case .inputOutput(_, _, let code) = error else { return .failure(MappedFileFailure(code: nil)) }
      return .failure(MappedFileFailure(code: code == ENOENT ? nil : code))
    }
  }

  /// The reason why the page with a byte could not be read, in words.
  func reason(at position: Int) -> String {
    let descriptor: Descriptor
    switch open() {
    case .success(let opened): descriptor = opened
    case .failure(let failure):
      return failure.code.map(unreadableReason) ?? "can't be read, and the file was removed or replaced since"
    }
    if let status = fileStatus(descriptor.number), status.st_size <= position {
      return "can't be read: the file was cut to \(status.st_size) bytes while it was read"
    }
    let code: Int32 = withUnsafeTemporaryAllocation(byteCount: pageByteCount, alignment: 16) { page in
      while true {
        let start = position & ~(pageByteCount - 1)
        let count = pread(descriptor.number, page.baseAddress, page.count, off_t(start))
        if count >= 0 { return 0 }
        if errno != EINTR { return errno }
      }
    }
    return code == 0
      ? "could not be read for a while (\(systemMessage(EIO))), and now can be; try again" : unreadableReason(code)
  }

  /// Whether the file is gone, is another one, or is shorter than the mapping.
  func isOther(byteCount: Int) -> Bool {
    switch open() {
    case .success(let descriptor):
      return fileStatus(descriptor.number).map { $0.st_size < byteCount } ?? false
    case .failure(let failure): return failure.code == nil
    }
  }

  /// Maps again what can be read again. Returns false if something still can't be read.
  func heal(_ region: FaultRegion) -> Bool {
    guard case .success(let descriptor) = open() else { return false }
    return clinux_region_heal(region.pointer, descriptor.number) == 0
  }
}

/// The reason why a mapped file can't be opened again; nil: it does not exist any more.
struct MappedFileFailure: Error {
  var code: Int32?
}

/// Identifies a file, whatever its name.
struct FileIdentity: Hashable, Sendable {
  private let device: UInt64
  private let inode: UInt64

  init(_ descriptor: Int32, _ path: String) throws(LogStoreError) {
    guard let status = fileStatus(descriptor) else { throw failure("look at", path, errno) }
    device = UInt64(status.st_dev)
    inode = UInt64(status.st_ino)
  }
}

/// A flag that several closures share.
final class SharedFlag: Sendable {
  private let value = Atomic(false)

  var isSet: Bool { value.load(ordering: .relaxed) }
  func set() { value.store(true, ordering: .relaxed) }
}
