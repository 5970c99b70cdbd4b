import Foundation
import Testing

/// What one payment's call does to the other payments: with a PSP written apart from the simulator, in Python.
@Suite("RegisPay, while calls hang", .serialized)
struct RegisPayHangingTests {
  private func run(_ script: String, _ arguments: [String], within limit: Duration) async throws {
    try await withTemporaryFolder { folder in
      let process = try RegisPayProcess(
        program: "python3",
        [
          StoreUnderTest.support + "/" + script, "--program",
          RegisPayProcess.buildFolder.appendingPathComponent("regispay").path,
        ] + arguments, folder: folder)
      var lines: [String] = []
      while let line = try await process.nextLine(within: limit) {
        print(line)
        lines.append(line)
      }
      let exit = try await process.waitForExit()
      #expect(exit.code == 0, "\(lines.joined(separator: "\n"))\n\(process.errorText)")
    }
  }

  @Test(
    "payments whose calls hang hold up no others, are seen, and complete when the PSP is back",
    arguments: [
      // Small loads, which leave the machine idle most of the time: each with a server and a PSP of its own, at once.
      [
        ["--rate", "20", "--hang", "0.3"],
        ["--rate", "20", "--hang", "0.3", "--errors", "0.2"],
        ["--rate", "40", "--hang", "0.1", "--kill"],
      ],
      // More hang than there are slots, for much longer than the others may wait.
      [["--rate", "150", "--hang", "0.95", "--call-timeout", "10"]],
    ])
  func hanging(_ loads: [[String]]) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
      for load in loads {
        group.addTask {
          // On a busy machine a second is short; without the shares of the slots the others wait for tens of them.
          try await run(
            "hanging_load.py",
            [
              "--seconds", "16", "--call-timeout", "2", "--retry-delay-limit", "4", "--limit", "4", "--kill-limit",
              "20",
            ] + load, within: .seconds(300))
        }
      }
      try await group.waitForAll()
    }
  }

  @Test(
    "a gateway that responds with 404 during a deployment costs time: no payment is parked, and all complete afterwards"
  )
  func deploy() async throws {
    try await run(
      "hanging_load.py",
      [
        "--rate", "8", "--hang", "0", "--seconds", "12", "--deploy", "6", "--limit", "60",
        "--argument=--breaker-seconds", "--argument=1",
      ], within: .seconds(300))
  }

  @Test("a disk that fills up while calls are out: no other goes out and none is repeated, until there is room")
  func fullDisk() async throws {
    guard geteuid() == 0 else {
      print("a full disk: not tested, since only root can mount a small one")
      return
    }
    try await run("full_disk.py", ["--full-seconds", "5"], within: .seconds(300))
  }
}
