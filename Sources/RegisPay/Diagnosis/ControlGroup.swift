import Glibc

/// The control group (version 2) that the process is in: limits that a container or a systemd unit sets. See the kernel's
/// documentation, *Control Group v2*.
struct ControlGroup: Sendable {
  /// The directories of the group and those above it, the group's own first.
  let directories: [String]

  /// Nil if there is none, as with version 1 alone.
  static var current: ControlGroup? {
    guard let root = Mount.all.first(where: { $0.type == "cgroup2" })?.point,
      let line = KernelFile.text("/proc/self/cgroup")?.split(separator: "\n").first(where: { $0.hasPrefix("0::") })
    else { return nil }
    return ControlGroup(root: root, path: String(line.dropFirst(3)))
  }

  /// - Parameter path: below the root, beginning with a slash.
  init(root: String, path: String) {
    let names = path.split(separator: "/")
    directories = (0...names.count).reversed().map { count in
      ([root] + names.prefix(count).map(String.init)).joined(separator: "/")
    }
  }

  /// The number in a file of the group; nil for none and for `max`.
  func number(_ file: String) -> UInt64? { directories.first.flatMap { KernelFile.number($0 + "/" + file) } }

  /// The least number in this file in the group and those above it; nil if none has one.
  func least(_ file: String) -> UInt64? { directories.compactMap { KernelFile.number($0 + "/" + file) }.min() }

  /// The share of processors that the group may use, such as 1.5; nil for no limit.
  var processors: Double? {
    directories.compactMap { directory -> Double? in
      let words = KernelFile.text(directory + "/cpu.max")?.split { $0 == " " || $0 == "\n" } ?? []
      guard words.count == 2, let quota = Double(words[0]), let period = Double(words[1]), period > 0 else {
        return nil
      }
      return quota / period
    }.min()
  }
}

/// The memory that the machine and the control group leave.
struct MemoryCheck: Check {
  let name = CheckName.memory

  /// A server under a steady load has taken up to 140 MiB: docs/PERFORMANCE.md, *Memory*.
  private static let least: UInt64 = 160 << 20
  /// Beside that, what clients may make it keep (docs/OPERATIONS.md, *Limits*) is some 230 MiB: bodies, heads, unread responses, streams
  /// and SQLite's pages.
  private static let most: UInt64 = 512 << 20

  func run() -> [Finding] {
    let pages = sysconf(Int32(_SC_PHYS_PAGES))
    let machine = UInt64(max(0, pages)) * UInt64(max(0, sysconf(Int32(_SC_PAGESIZE))))
    return [Self.judge(machine: machine, group: ControlGroup.current?.least("memory.max"))]
  }

  /// - Parameter group: the control group's limit; nil for none.
  static func judge(machine: UInt64, group: UInt64?) -> Finding {
    let bytes = min(machine, group ?? .max)
    let shown =
      group.map { $0 <= machine } == true
      ? "the control group may use \(Shown.bytes(bytes)) of memory" : "the machine has \(Shown.bytes(bytes)) of memory"
    let advice =
      "Raise the limit (MemoryMax= in the systemd unit, or the container's), or use a machine with more memory."
    if bytes < least {
      return .problem(.memory, "\(shown), and the system ends processes that need more", advice: advice)
    }
    if bytes < most {
      return .warning(
        .memory, "\(shown), and under load with many clients the server may take \(Shown.bytes(most))", advice: advice)
    }
    return .ok(.memory, shown)
  }
}

/// How much of the processors the server may use. Information only.
struct ProcessorsCheck: Check {
  let name = CheckName.processors

  func run() -> [Finding] {
    let online = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
    guard let share = ControlGroup.current?.processors else {
      return [
        .ok(name, "the machine has \(online) processor\(online == 1 ? "" : "s"), and no control group limits them")
      ]
    }
    return [
      .ok(name, "the control group may use \((share * 100).rounded() / 100) of the machine's \(online) processors")
    ]
  }
}
