/// Whether the data directory's file system keeps what a sync has promised.
struct FileSystemCheck: Check {
  let name = CheckName.fileSystem
  let directory: String

  private static let advice =
    "Put the data directory on a local disk with ext4, XFS, Btrfs or ZFS (docs/INSTALL.md, docs/DURABILITY.md)."
  /// With these the kernel does not make the device write what it has in its cache: mount(8), ext4(5), xfs(5); and, for an
  /// overlay, the kernel's documentation of overlayfs.
  private static let withoutSyncs: Set = ["nobarrier", "barrier=0", "volatile"]
  /// A file may show old content of the disk after a power cut, where nothing was synced.
  private static let loose: Set = ["data=writeback"]

  func run() -> [Finding] {
    let place = DataPlace(directory)
    guard let mount = Mount.of(place.existing) else {
      return [.notChecked(name, "the kernel does not say what \(place.existing) is mounted from")]
    }
    let upper = mount.upperDirectory.flatMap(Mount.of)
    return [Self.judge(mount, upper: upper, directory: place.existing)]
  }

  /// - Parameter upper: of a container's layers, the mount that takes what is written; nil if it can't be seen.
  static func judge(_ mount: Mount, upper: Mount?, directory: String) -> Finding {
    let shown = "\(directory) is on \(mount.type) (\(mount.source) at \(mount.point))"
    if mount.isReadOnly {
      return .problem(
        .fileSystem, "\(shown), which is mounted read-only",
        advice:
          "Look into the kernel's log (dmesg) for the error after which it was made read-only, or mount it with rw.")
    }
    if let option = mount.options.first(where: withoutSyncs.contains) {
      return .problem(
        .fileSystem,
        "\(shown) with the option \(option): a sync does not reach the disk, and a power cut loses payments",
        advice: "Mount it without \(option).")
    }
    switch mount.kind {
    case .memory:
      return .problem(
        .fileSystem, "\(shown): it is memory, and all payments are gone when the machine stops", advice: advice)
    case .network:
      return .problem(
        .fileSystem, "\(shown), a network file system: locks and syncs depend on another machine and the network",
        advice: advice)
    case .simple:
      return .problem(
        .fileSystem, "\(shown), which has no journal, or no owners and modes for files: others may read keys",
        advice: advice)
    case .layers where upper?.kind == .memory:
      return .problem(
        .fileSystem, "\(shown), a container's own layer in memory: all payments are gone when the machine stops",
        advice: "Mount a volume on a local disk at the data directory.")
    case .layers:
      return .warning(
        .fileSystem, "\(shown), a container's own layer, which is removed with the container",
        advice: "Mount a volume on a local disk at the data directory.")
    case .unknown:
      return .warning(
        .fileSystem, "\(shown), which RegisPay was never tested on",
        advice: "Use ext4, XFS, Btrfs or ZFS, or make sure that this one keeps what was synced when the power is cut.")
    case .safe: break
    }
    if let option = mount.options.first(where: loose.contains) {
      return .warning(
        .fileSystem, "\(shown) with the option \(option), which RegisPay was never tested with",
        advice: "Mount it with data=ordered, the default.")
    }
    return .ok(.fileSystem, shown)
  }
}
