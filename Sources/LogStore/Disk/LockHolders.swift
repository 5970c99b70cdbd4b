import Glibc

/// The processes that hold a lock on a file, as the kernel lists them (`/proc/locks`): those visible from here, not those
/// in another container.
struct LockHolders: CustomStringConvertible {
  private struct Holder {
    var process: pid_t
    var isShared: Bool
    /// nil if the process has ended. Then another process has the lock from it.
    var name: String?
    var user: uid_t?
    var isThere: Bool
  }

  private let holders: [Holder]
  /// The owner of the file.
  private let owner: uid_t
  private let inode: ino_t
  private let device: dev_t

  /// Returns nil where the kernel does not list them.
  init?(of descriptor: Int32) {
    guard let status = fileStatus(descriptor), let text = Self.contents("/proc/locks") else { return nil }
    (owner, inode, device) = (status.st_uid, status.st_ino, status.st_dev)
    var found: [(device: Substring, holder: Holder)] = []
    for line in text.split(separator: "\n") {
      // `1: FLOCK  ADVISORY  READ 4711 08:01:131077 0 EOF`; a waiting process has `->` as the second word.
      let words = line.split(separator: " ")
      guard words.count >= 6, words[1] == "FLOCK", let process = pid_t(words[4]) else { continue }
      let fields = words[5].split(separator: ":")
      guard fields.count == 3, ino_t(fields[2]) == inode else { continue }
      found.append((words[5], Self.holder(process, isShared: words[3] == "READ")))
    }
    // Some file systems show other device numbers here than in fstat. Then the inode decides, if it belongs to one file.
    let device =
      "\(Self.hexadecimal(Self.major(status.st_dev))):\(Self.hexadecimal(Self.minor(status.st_dev))):\(inode)"
    let exact = found.filter { $0.device == device }
    if exact.isEmpty, Set(found.map(\.device)).count > 1 { return nil }
    holders = (exact.isEmpty ? found : exact).map(\.holder)
  }

  /// Whether none of the holders may write the file, and nobody has it open for writing: no process of this user, of the
  /// file's owner or of root holds it or has it open.
  ///
  /// The kernel names the process that took a lock. A child that inherits the descriptor keeps the lock after that process
  /// has ended, and another process may have got its number. So processes that have the file open count as well.
  var areStrangers: Bool {
    guard !holders.isEmpty else { return false }
    for holder in holders {
      guard let user = holder.user, isTrusted(user) else { continue }
      // A process that can't be inspected counts as the holder.
      guard let isOpen = isOpen(by: holder.process), !isOpen else { return false }
    }
    return !isOpenHere
  }

  /// Whether each holder belongs to another user or has ended: for a directory, which other programs may have open. The
  /// caller must know from elsewhere that none of them is a writer.
  var areStrangersOrEnded: Bool {
    !holders.isEmpty && holders.allSatisfy { holder in holder.user.map { !isTrusted($0) } ?? !holder.isThere }
  }

  private func isTrusted(_ user: uid_t) -> Bool { user == 0 || user == owner || user == geteuid() }

  /// Whether another process of this user, of the owner or of root has the file open. Processes that this user may not
  /// inspect are not seen.
  private var isOpenHere: Bool {
    // Without a list nothing is known, so nothing is taken from anybody.
    guard let names = Self.names("/proc") else { return true }
    return names.contains { name in
      guard let process = pid_t(name), process != getpid(), isOpen(by: process) == true else { return false }
      return Self.holder(process, isShared: false).user.map(isTrusted) ?? false
    }
  }

  /// nil if this user may not inspect the process.
  private func isOpen(by process: pid_t) -> Bool? {
    guard let numbers = Self.names("/proc/\(process)/fd") else { return nil }
    return numbers.contains { number in
      guard let status = fileStatus(at: "/proc/\(process)/fd/\(number)") else { return false }
      return status.st_ino == inode && status.st_dev == device
    }
  }

  /// For messages: `process 4711 (regispay, user 1000)`.
  var description: String {
    guard !holders.isEmpty else {
      return "a process that can't be seen from here, such as one in another container"
    }
    return holders.map { holder in
      guard holder.isThere else { return "a process that has the lock from process \(holder.process), which has ended" }
      let name = [holder.name, holder.user.map { "user \($0)" }].compactMap { $0 }.joined(separator: ", ")
      return "process \(holder.process)" + (name.isEmpty ? "" : " (\(name))")
        + (holder.isShared ? ", which keeps writers out" : "")
    }.joined(separator: " and ")
  }

  private static func holder(_ process: pid_t, isShared: Bool) -> Holder {
    var holder = Holder(process: process, isShared: isShared, isThere: kill(process, 0) == 0 || errno == EPERM)
    for line in contents("/proc/\(process)/status")?.split(separator: "\n") ?? [] {
      let words = line.split { $0 == "\t" || $0 == " " }
      guard words.count >= 2 else { continue }
      if words[0] == "Name:" { holder.name = words[1...].joined(separator: " ") }
      if words[0] == "Uid:" { holder.user = uid_t(words[1]) }
    }
    return holder
  }

  /// All of a small file of the kernel.
  private static func contents(_ path: String) -> String? {
    // Without the file nothing is known, whatever the reason: the caller then takes no lock from anybody.
    guard let descriptor = try? Descriptor(path, O_RDONLY, operation: "open") else { return nil }
    var bytes: [UInt8] = []
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 16, alignment: 1)
    defer { buffer.deallocate() }
    while true {
      let count = read(descriptor.number, buffer.baseAddress, buffer.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return count == 0 ? String(decoding: bytes, as: UTF8.self) : nil }
      bytes.append(contentsOf: buffer[..<count])
    }
  }

  /// nil if the directory can't be listed or is gone.
  private static func names(_ directory: String) -> [String]? {
    // The callers need no reason: what can't be seen counts as held.
    try? RealDisk().list(directory)
  }

  private static func hexadecimal(_ number: UInt32) -> String {
    let text = String(number, radix: 16)
    return text.utf8.count < 2 ? "0" + text : text
  }

  // As the C library's macros compute it.
  private static func major(_ device: dev_t) -> UInt32 {
    UInt32(truncatingIfNeeded: (device >> 8) & 0xFFF | (device >> 32) & ~0xFFF)
  }

  private static func minor(_ device: dev_t) -> UInt32 {
    UInt32(truncatingIfNeeded: device & 0xFF | (device >> 12) & ~0xFF)
  }
}
