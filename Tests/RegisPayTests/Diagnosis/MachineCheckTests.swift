import Foundation
import Testing

@testable import RegisPay

@Suite("Diagnosis: disk, limits and clock")
struct MachineCheckTests {
  private static let ext4 = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"

  @Test("a line of mountinfo is read, with escapes and without optional fields")
  func mounts() throws {
    let mount = try #require(
      Mount(#"36 35 98:0 /mnt1 /mnt\0402 ro,noatime master:1 - ext3 /dev/my\040disk rw,errors=continue"#))
    #expect(mount.point == "/mnt 2" && mount.source == "/dev/my disk" && mount.type == "ext3" && mount.id == 36)
    #expect(mount.isReadOnly && mount.options.contains("errors=continue"))
    #expect(Mount("25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=1k")?.kind == .memory)
    for line in ["", "36 35", "36 35 98:0 / /mnt rw - ext4", "a 35 98:0 / /mnt rw - ext4 /dev/sda rw"] {
      #expect(Mount(line[...]) == nil, "\(line)")
    }
    #expect(Mount.of("/proc")?.type == "proc")
    #expect(Mount.of("/nowhere") == nil)
  }

  @Test(
    "file systems that lose what was synced are problems, those that nobody tested warnings",
    arguments: [
      (ext4, Finding.Result.ok, "ext4"), ("1 1 0:1 / / rw - xfs /dev/vda rw", .ok, "xfs"),
      ("1 1 0:1 / / rw - btrfs /dev/vda rw", .ok, "btrfs"), ("1 1 0:1 / / rw - zfs pool rw", .ok, "zfs"),
      ("1 1 0:1 / /m rw - tmpfs tmpfs rw", .problem, "it is memory"),
      ("1 1 0:1 / /m rw - ramfs x rw", .problem, "memory"),
      ("1 1 0:1 / /m rw - nfs4 host:/x rw,sync", .problem, "a network file system"),
      ("1 1 0:1 / /m rw - cifs //host/x rw", .problem, "network"), ("1 1 0:1 / /m rw - 9p x rw", .problem, "network"),
      ("1 1 0:1 / /m rw - fuse.sshfs x rw", .problem, "network"), ("1 1 0:1 / /m rw - ceph x rw", .problem, "network"),
      ("1 1 0:1 / /m rw - vfat /dev/sda rw", .problem, "no journal"),
      ("1 1 0:1 / /m rw - exfat x rw", .problem, "no journal"),
      ("1 1 0:1 / /m rw - ext4 /dev/sda rw,nobarrier", .problem, "nobarrier"),
      ("1 1 0:1 / /m rw - ext4 /dev/sda rw,barrier=0", .problem, "barrier=0"),
      ("1 1 0:1 / /m ro - ext4 /dev/sda rw", .problem, "read-only"),
      ("1 1 0:1 / /m rw - xfs /dev/sda ro", .problem, "read-only"),
      ("1 1 0:1 / /m rw - ext4 /dev/sda rw,data=writeback", .warning, "data=writeback"),
      ("1 1 0:1 / /m rw - bcachefs /dev/sda rw", .warning, "never tested"),
      ("1 1 0:1 / / rw - overlay overlay rw,upperdir=/u,workdir=/w", .warning, "removed with the container"),
      ("1 1 0:1 / / rw - overlay overlay rw,upperdir=/u,volatile", .problem, "volatile"),
    ] as [(String, Finding.Result, String)])
  func fileSystems(_ line: String, _ result: Finding.Result, _ text: String) throws {
    let finding = FileSystemCheck.judge(try #require(Mount(line[...])), upper: nil, directory: "/m/data")
    #expect(finding.result == result && finding.found.contains(text), "\(finding)")
    #expect((finding.advice == nil) == (result == .ok))
  }

  @Test("a container's layer in memory is a problem, and so is /dev/shm")
  func memory() throws {
    let overlay = try #require(Mount("1 1 0:1 / / rw - overlay overlay rw,upperdir=/u,workdir=/w"))
    #expect(overlay.upperDirectory == "/u")
    let memory = Mount("2 1 0:2 / /u rw - tmpfs tmpfs rw")
    #expect(FileSystemCheck.judge(overlay, upper: memory, directory: "/").result == .problem)
    guard Mount.of("/dev/shm")?.type == "tmpfs" else { return }
    let finding = FileSystemCheck(directory: "/dev/shm/regispay-not-there/data").run()
    #expect(finding.map(\.result) == [.problem] && finding[0].found.hasPrefix("/dev/shm is on tmpfs"))
    #expect(SyncSpeedCheck(directory: "/dev/shm").run().map(\.result) == [.notChecked])
  }

  @Test(
    "room for the next segments is needed, and a twentieth of the disk or 10 GB is wanted",
    arguments: [
      (95 << 20, 1 << 30, 9, 9, Finding.Result.problem), (97 << 20, 1 << 30, 2_000, 9_000, .ok),
      (97 << 20, 100 << 30, 2_000, 9_000, .warning), (11 << 30, 900 << 30, 2_000, 9_000, .ok),
      (500 << 30, 900 << 30, 0, 9_000, .problem), (500 << 30, 900 << 30, 0, 0, .ok),
      (500 << 30, 900 << 30, 5, 9_000, .warning),
    ] as [(UInt64, UInt64, UInt64, UInt64, Finding.Result)])
  func space(_ free: UInt64, _ total: UInt64, _ freeFiles: UInt64, _ totalFiles: UInt64, _ result: Finding.Result) {
    let room = DiskSpaceCheck.Room(freeBytes: free, totalBytes: total, freeFiles: freeFiles, totalFiles: totalFiles)
    let finding = DiskSpaceCheck.judge(room, segmentBytes: 32 << 20)
    #expect(finding.result == result, "\(finding)")
  }

  @Test(
    "syncs that no device can do are doubted, slow ones are reported",
    arguments: [
      (Duration.microseconds(19), Duration.microseconds(30), Finding.Result.warning, "not real"),
      (.microseconds(21), .microseconds(30), .ok, "21 µs (median)"),
      (.milliseconds(2), .milliseconds(90), .ok, "2.0 ms"),
      (.milliseconds(11), .milliseconds(12), .warning, "four syncs"),
      (.milliseconds(2), .milliseconds(101), .warning, "now and then"),
    ] as [(Duration, Duration, Finding.Result, String)])
  func syncSpeed(_ most: Duration, _ few: Duration, _ result: Finding.Result, _ text: String) {
    let finding = SyncSpeedCheck.judge((0..<200).map { $0 < 197 ? most : few })
    #expect(finding.result == result && finding.found.contains(text), "\(finding)")
  }

  @Test("the disk is measured without a file that stays, and a directory that is not there by the one above")
  func measured() async throws {
    try await withTemporaryFolder { folder in
      let before = try FileManager.default.attributesOfItem(atPath: folder)[.modificationDate] as? Date
      for directory in [folder, folder + "/a/b"] {
        let findings = SyncSpeedCheck(directory: directory).run()
        #expect(findings.count == 1 && findings[0].result != .problem, "\(findings)")
        #expect(findings[0].result == .notChecked || findings[0].found.hasPrefix("200 writes of 4 KiB"), "\(findings)")
      }
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder).isEmpty)
      // Not even for a moment.
      let after = try FileManager.default.attributesOfItem(atPath: folder)[.modificationDate] as? Date
      #expect(before == after)
    }
  }

  @Test("limits are compared with what the server needs and wants")
  func limits() {
    #expect(OpenFilesCheck.judge(255, connections: 8_192).result == .problem)
    let few = OpenFilesCheck.judge(1_024, connections: 8_192)
    #expect(few.result == .warning && few.found.contains("384 of the 8192 connections"))
    #expect(OpenFilesCheck.judge(1_024, connections: 384).result == .ok)
    #expect(OpenFilesCheck.judge(65_536, connections: 8_192).result == .ok)
    #expect(OpenFilesCheck.judge(nil, connections: 8_192).result == .ok)
    #expect(FileSizeCheck.judge(1 << 20, segmentBytes: 32 << 20).result == .problem)
    #expect(FileSizeCheck.judge(1 << 30, segmentBytes: 32 << 20).result == .warning)
    #expect(FileSizeCheck.judge(nil, segmentBytes: 32 << 20).result == .ok)
    #expect(ThreadsCheck.judge(ofUser: nil, leftInGroup: 45, needed: 46).result == .problem)
    #expect(ThreadsCheck.judge(ofUser: 45, leftInGroup: 900, needed: 46).found.contains("the user may have 45"))
    #expect(ThreadsCheck.judge(ofUser: 46, leftInGroup: nil, needed: 46).result == .ok)
    #expect(ThreadsCheck.judge(ofUser: nil, leftInGroup: nil, needed: 46).result == .ok)
    #expect(MemoryCheck.judge(machine: 8 << 30, group: 64 << 20).result == .problem)
    #expect(MemoryCheck.judge(machine: 8 << 30, group: 256 << 20).result == .warning)
    #expect(MemoryCheck.judge(machine: 8 << 30, group: nil).result == .ok)
    #expect(InotifyCheck.judge(failure: EMFILE, "the user may have 1").result == .warning)
    for check in [ThreadsCheck(), MemoryCheck(), ProcessorsCheck(), InotifyCheck()] as [any Check] {
      let findings = check.run()
      #expect(findings.count == 1 && findings[0].check == check.name, "\(findings)")
    }
  }

  @Test("a control group's limits are those of the group and of all above it")
  func controlGroup() async throws {
    try await withTemporaryFolder { folder in
      try FileManager.default.createDirectory(atPath: folder + "/a/b", withIntermediateDirectories: true)
      func write(_ text: String, _ name: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: folder + name))
      }
      try write("max\n", "/a/b/memory.max")
      try write("4096\n", "/a/memory.max")
      try write("150000 100000\n", "/a/cpu.max")
      try write("max 100000\n", "/a/b/cpu.max")
      try write("7\n", "/a/b/pids.current")
      let group = ControlGroup(root: folder, path: "/a/b")
      #expect(group.directories == [folder + "/a/b", folder + "/a", folder])
      #expect(group.least("memory.max") == 4_096 && group.processors == 1.5 && group.number("pids.current") == 7)
      #expect(group.least("pids.max") == nil && ControlGroup(root: folder, path: "/").directories == [folder])
    }
  }

  @Test("a clock that nothing keeps right is a warning, one before what has happened a problem")
  func clock() {
    let now: UInt64 = 1_800_000_000_000_000
    var facts = ClockCheck.Facts(now: now, kept: 0, error: 12_000)
    facts.unknown = ["payments"]
    #expect(ClockCheck.judge(facts).result == .notChecked)
    facts.unknown = []
    #expect(ClockCheck.judge(facts).result == .ok && ClockCheck.judge(facts).found.contains("12.0 ms"))
    facts.kept = ETIME
    #expect(ClockCheck.judge(facts).result == .warning)
    facts.kept = EPERM
    #expect(ClockCheck.judge(facts).result == .notChecked)
    facts.kept = 0
    facts.events = [("payments", now + 5_000_000), ("simulator", 0)]
    #expect(ClockCheck.judge(facts).result == .ok)
    facts.events[0].time += 1
    #expect(ClockCheck.judge(facts).result == .problem && ClockCheck.judge(facts).found.contains("payments log"))
    facts.events = []
    facts.program = now + 86_400_000_000
    #expect(ClockCheck.judge(facts).result == .ok)
    facts.program = now + 86_400_000_001
    #expect(ClockCheck.judge(facts).result == .problem)
  }

  private struct Hanging: Check {
    let name = CheckName.store
    let end: DispatchSemaphore

    func run() -> [Finding] {
      end.wait()
      return [.ok(name, "done")]
    }
  }

  @Test("a check that hangs is a problem, and the others have their findings, in their order")
  func hanging() {
    let end = DispatchSemaphore(value: 0)
    let findings = TimedCheck.run([ProcessorsCheck(), Hanging(end: end), MemoryCheck()], limit: .seconds(1))
    end.signal()
    #expect(findings.map(\.check) == [.processors, .store, .memory])
    #expect(findings[1].result == .problem && findings[1].found == "the check did not end within 1 seconds")
  }

  @Test("the report is for people and for programs, and a file's name can't forge a line")
  func report() throws {
    let report = DiagnosisReport(
      directory: "/d", seconds: 1_800_000_000,
      findings: [
        .ok(.port, "free"), .warning(.clock, "late\n\u{1B}[2J", advice: "set it"), .notChecked(.backupAge, "none"),
      ])
    #expect(
      report.text == """
        ok           port        free
        warning      clock       late??[2J
                                 To do: set it
        not checked  backup-age  none
        /d: 0 problems, 1 warning, 1 ok, 1 not checked

        """)
    let json = try JSONReader.read(report.json.bytes)
    #expect(json["result"]?.text == "warning" && !report.hasProblem && json["time"]?.text == "2027-01-15T08:00:00Z")
    guard case .array(let checks)? = json["checks"] else { throw CancellationError() }
    #expect(checks.map { $0["id"]?.text } == ["port", "clock", "backup-age"])
    #expect(checks.map { $0["result"]?.text } == ["ok", "warning", "not checked"])
    #expect(checks.map { $0["advice"]?.text } == [nil, "set it", nil])
    #expect(checks[1]["found"]?.text == "late\n\u{1B}[2J")
  }

  @Test("numbers are shown with their units")
  func shown() {
    #expect(
      [0, 1_023, 1_024, 1_536, 12 << 20, 300 << 30, 5 << 50].map { Shown.bytes($0) }
        == ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "12.0 MiB", "300 GiB", "5120 TiB"])
    #expect(
      [119, 120, 7_199, 7_200, 172_800].map { Shown.age($0) }
        == ["119 seconds", "2 minutes", "119 minutes", "2 hours", "2 days"])
    #expect(Shown.milliseconds(.nanoseconds(18_400)) == "18 µs" && Shown.milliseconds(.microseconds(850)) == "0.85 ms")
  }
}
