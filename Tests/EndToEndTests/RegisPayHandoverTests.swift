import Foundation
import Testing

@Suite("RegisPay, at a socket that outlives it")
struct RegisPayHandoverTests {
  @Test("ten restarts under load refuse no connection, and leave no request without a response")
  func restarts() async throws {
    try await withTemporaryFolder { folder in
      let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/Support/handover.py"
      let program = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path
      let process = try RegisPayProcess(
        program: "python3", [script, "--program", program, "--dir", folder, "--restarts", "10"], folder: folder)
      let exit = try await process.waitForExit(within: .seconds(180))
      var text = ""
      while let line = try await process.nextLine() { text += line + "\n" }
      #expect(exit == ChildEnding(code: 0, isSignal: false), "\(text)\(process.errorText)")
    }
  }

  @Test(
    "what is no listening TCP socket refuses the start, and says so",
    arguments: [("closed", "no"), ("file", "no socket"), ("connected", "no socket"), ("unix", "IP address")])
  func unusable(_ kind: String, _ reason: String) async throws {
    try await withTemporaryFolder { folder in
      let script = """
        import os, socket, sys
        kind, folder, program = sys.argv[1:]
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        if kind == "file": thing = open(folder + "/file", "w")
        elif kind == "connected": thing = socket.socketpair()[0]
        elif kind == "unix":
            thing = socket.socket(socket.AF_UNIX)
            thing.bind(folder + "/unix")
            thing.listen()
        if kind == "closed": os.closerange(3, 10)
        else: os.dup2(thing.fileno(), 3)
        if kind != "closed": os.set_inheritable(3, True)
        os.execv(program, [program, "serve", "--dir", folder + "/data"])
        """
      let program = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path
      let process = try RegisPayProcess(program: "python3", ["-c", script, kind, folder, program], folder: folder)
      #expect(try await process.waitForExit() == ChildEnding(code: 64, isSignal: false), "\(process.errorText)")
      #expect(process.errorText.contains("LISTEN_FDS") && process.errorText.contains(reason), "\(process.errorText)")
      #expect(!FileManager.default.fileExists(atPath: folder + "/data"))
    }
  }
}
