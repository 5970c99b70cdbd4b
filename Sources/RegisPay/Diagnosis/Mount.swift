import Foundation

/// A mounted file system, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
struct Mount: Sendable, Hashable {
  /// How much a power cut spares on file systems of a type.
  enum Kind: Sendable, Hashable {
    /// Keeps what a sync has promised.
    case safe
    /// Everything is gone when the machine stops.
    case memory
    /// Of another machine: locks and syncs are only as good as it and the network.
    case network
    /// Has no modes or owners, and no journal.
    case simple
    /// The layers of a container.
    case layers
    case unknown
  }

  var id: Int
  var point: String
  var type: String
  var source: String
  /// Those of the mount and those of the file system.
  var options: [String]

  private static let safe: Set = ["ext4", "xfs", "btrfs", "zfs"]
  private static let memory: Set = ["tmpfs", "ramfs", "devtmpfs", "rootfs"]
  private static let network: Set = [
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph",
    "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse",
  ]
  private static let simple: Set = ["vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "iso9660"]

  var kind: Kind {
    if Self.safe.contains(type) { return .safe }
    if Self.memory.contains(type) { return .memory }
    if Self.network.contains(type) { return .network }
    if Self.simple.contains(type) { return .simple }
    return type == "overlay" ? .layers : .unknown
  }

  var isReadOnly: Bool { options.contains("ro") }

  /// The directory that takes what is written to a container's layers; nil if it is no such mount.
  var upperDirectory: String? {
    options.first { $0.hasPrefix("upperdir=") }.map { String($0.dropFirst("upperdir=".count)) }
  }

  /// Reads one line; nil if it is none.
  init?(_ line: Substring) {
    let words = line.split(separator: " ").map { Self.unescaped($0) }
    guard words.count >= 10, let id = Int(words[0]), let separator = words[6...].firstIndex(of: "-"),
      separator + 3 < words.count
    else { return nil }
    self.id = id
    point = words[4]
    type = words[separator + 1]
    source = words[separator + 2]
    options = (words[5] + "," + words[separator + 3]).split(separator: ",").map(String.init)
  }

  /// The mount that a directory is on; nil if the kernel does not tell. Blocks for some system calls.
  static func of(_ directory: String) -> Mount? {
    // Needs no right to read the directory.
    let descriptor = open(directory, OpenFlags.path | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    guard let information = KernelFile.text("/proc/self/fdinfo/\(descriptor)"),
      let line = information.split(separator: "\n").first(where: { $0.hasPrefix("mnt_id:") }),
      let id = Int(line.dropFirst("mnt_id:".count).trimmingCharacters(in: .whitespaces))
    else { return nil }
    return all.first { $0.id == id }
  }

  static var all: [Mount] {
    (KernelFile.text("/proc/self/mountinfo") ?? "").split(separator: "\n").compactMap { Mount($0) }
  }

  /// Spaces and the like are written as octal digits.
  private static func unescaped(_ word: Substring) -> String {
    guard word.contains("\\") else { return String(word) }
    var bytes: [UInt8] = []
    var rest = Array(word.utf8)[...]
    while let byte = rest.first {
      let digits = rest.dropFirst().prefix(3)
      if byte == UInt8(ascii: "\\"), digits.count == 3,
        let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
      {
        bytes.append(value)
        rest = rest.dropFirst(4)
      } else {
        bytes.append(byte)
        rest = rest.dropFirst()
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// Flags of open(2) that Swift's view of glibc leaves out, as the kernel's `asm-generic/fcntl.h` has them: the same on x86-64 and
/// ARM64.
enum OpenFlags {
  /// `O_PATH`: without any right to the file itself.
  static let path: Int32 = 0o10_000_000
  /// `O_TMPFILE`: a file without a name.
  static let temporary: Int32 = 0o20_000_000 | O_DIRECTORY
}

/// The kernel's own small files.
enum KernelFile {
  /// Nil if it can't be read: then the kernel does not tell, whatever the reason.
  static func text(_ path: String) -> String? {
    guard let bytes = try? FileBytes.read(path) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// A file with one number in it; nil for `max` too.
  static func number(_ path: String) -> UInt64? {
    text(path).flatMap { UInt64($0.trimmingCharacters(in: .whitespacesAndNewlines)) }
  }
}
