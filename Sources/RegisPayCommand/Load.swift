import ArgumentParser
import Foundation
import RegisPay

/// `regispay load`: sends payments to a server at a constant rate and prints a report.
struct Load: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Send payments to a server at a constant rate and report how long they took.",
    discussion: "The exit code is 1 when an accepted payment did not complete in time. The environment variable "
      + "REGISPAY_KEY, if set, is sent as the API key; it needs the scopes read and write.")

  @Option(help: "Payments a second.")
  var rate: Int

  @Option(help: "Seconds to send payments.")
  var seconds: Int

  @Option(help: "The server's address.")
  var url = "http://127.0.0.1:8080"

  @Option(help: "Seconds to wait for the last payments to complete.")
  var wait = 60

  @OptionGroup(title: "TLS") var tls: ClientTLSOptions

  func validate() throws {
    guard (1...100_000).contains(rate) else { throw ValidationError("--rate must be 1 to 100000") }
    guard (1...86_400).contains(seconds) else { throw ValidationError("--seconds must be 1 to 86400") }
    guard rate * seconds <= 20_000_000 else {
      throw ValidationError("--rate times --seconds must be at most 20,000,000 payments")
    }
    guard wait >= 0 else { throw ValidationError("--wait must be 0 or more") }
    try checkURL(url, of: "--url")
    try tls.checkFit(url)
  }

  func run() async throws {
    tls.checkFiles()
    var options = LoadDriver.Options(
      url: url.hasSuffix("/") ? String(url.dropLast()) : url, rate: rate, duration: .seconds(seconds))
    options.completionLimit = .seconds(wait)
    options.tls = tls.clientTLS
    // Not an argument: every user of the machine can read a process's arguments.
    options.key = ProcessInfo.processInfo.environment["REGISPAY_KEY"]
    let isTerminal = isatty(STDERR_FILENO) == 1
    do {
      let report = try await LoadDriver(options).run { progress in
        guard isTerminal else { return }
        let line = "sent \(progress.sent)  accepted \(progress.accepted)  completed \(progress.completed)"
        FileHandle.standardError.write(Data("\r\u{1B}[K\(line)".utf8))
      }
      if isTerminal { FileHandle.standardError.write(Data("\r\u{1B}[K".utf8)) }
      print(report)
      if !report.isGood { throw ExitCode(1) }
    } catch let code as ExitCode {
      throw code
    } catch {
      fail("can't load \(options.url): \(error)")
    }
  }
}
