import Foundation
import Testing

/// What the documents say of exit codes, asked of every command.
@Suite("Exit codes")
struct ExitCodeTests {
  private struct End {
    var code: Int32
    /// Separated by spaces; DIR and NEW are folders, and nobody listens at port 1.
    var arguments: String

    init(_ code: Int32, _ arguments: String) { (self.code, self.arguments) = (code, arguments) }
  }

  private static let commands = [
    "serve", "keys create", "keys list", "keys revoke", "load", "parked list", "parked show", "parked release",
    "unknown list", "unknown resolve", "backup", "restore", "doctor", "simulator",
  ]

  private static let ends: [End] = [
    End(0, "keys create --dir DIR --name a --scope read --expires 1s"), End(0, "keys list --dir DIR"), End(0, ""),
    End(64, "no-such-command"), End(64, "load --rate 0"), End(64, "serve --port 99999"),
    End(64, "serve --psp-url ftp://a"), End(64, "serve --psp-url http://[::1"), End(64, "serve --psp-url http://"),
    End(64, "serve --notifications-url http://a:0"), End(64, "serve --psp-url http://user:geheim@a"),
    End(64, "serve --notifications-url user:geheim@a"), End(64, "serve --segment-bytes 0"),
    End(64, "serve --segment-bytes 65535"), End(64, "serve --segment-bytes 1073741825"),
    End(64, "load --rate 1 --seconds 1 --url a"), End(64, "parked list --url http://user:geheim@a"),
    End(64, "unknown list --url http://a:0"),
    End(64, "parked release"), End(64, "parked list --tls-key a"),
    End(64, "load --rate 1 --seconds 1 --tls-certificate a"),
    End(64, "unknown resolve nonsense --step create --happened"), End(1, "serve --dir /dev/null/x"),
    End(1, "serve --dir NEW --host 0.0.0.0"), End(1, "keys create --dir /dev/null/x --name a --scope read"),
    End(1, "keys list --dir /dev/null/x"), End(1, "keys revoke --dir DIR nobody"),
    End(1, "load --rate 1 --seconds 1 --url http://127.0.0.1:1"), End(1, "parked list --url http://127.0.0.1:1"),
    End(1, "parked show 6f9619ff-8b86-4011-b42d-00cf4fc964ff --url http://127.0.0.1:1"),
    End(64, "doctor --format xml"), End(64, "doctor --port 99999"), End(64, "doctor --backup-max-age 15"),
    End(64, "doctor --print-config"), End(64, "doctor --psp-url ftp://user:geheim@a"),
    End(64, "backup --to NEW --every 0s"), End(64, "backup"), End(64, "restore"),
    End(1, "backup --dir NEW --to /dev/null/x"), End(1, "restore --from NEW --dir /dev/null/x"),
    End(64, "simulator --port 99999"), End(64, "simulator --service bank"), End(64, "simulator --tls-key a"),
    End(64, "simulator --psp-faults {}x"), End(64, "simulator --service psp --notifications-faults {}"),
    End(1, "simulator --dir /dev/null/x"), End(1, "simulator --dir NEW --host 0.0.0.0"),
    End(1, "parked release --all --url http://127.0.0.1:1"), End(1, "unknown list --url http://127.0.0.1:1"),
  ]

  @Test("each command of regispay ends as the table of OPERATIONS.md says, and shows each code of it")
  func operations() async throws {
    let path = CommandBlock.repository.appendingPathComponent("docs/OPERATIONS.md")
    let text = try String(contentsOf: path, encoding: .utf8)
    let table = try #require(text.components(separatedBy: "| exit code | means |").dropFirst().first)
    let rows = table.split(separator: "\n").drop { $0.hasPrefix("|---") }.prefix { $0.hasPrefix("| ") }
    let codes = rows.compactMap { row in
      row.split(separator: "|").first.flatMap { Int32($0.trimmingCharacters(in: .whitespaces)) }
    }
    #expect(codes == [0, 1, 64])
    var ends = Self.ends
    for command in Self.commands { ends += [End(0, command + " --help"), End(64, command + " --no-such-option")] }
    try await withTemporaryFolder { [ends] folder in
      for end in ends {
        let words = end.arguments.split(separator: " ").map {
          ["DIR": folder + "/data", "NEW": folder + "/new"][$0] ?? String($0)
        }
        let process = try RegisPayProcess(words, folder: folder)
        let exit = try await process.waitForExit()
        let errors = process.errorText
        #expect(exit == .init(code: end.code, isSignal: false), "regispay \(end.arguments): \(errors)")
        #expect(!errors.contains("geheim"), "no password is shown: \(errors)")
        // "one line on standard error says what and what to do"
        if end.code == 1 { #expect(errors.split(separator: "\n").count == 1, "regispay \(end.arguments): \(errors)") }
      }
    }
  }
}
