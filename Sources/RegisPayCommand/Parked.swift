import ArgumentParser
import Foundation
import RegisPay

/// `regispay parked`: payments that the server has parked until a person releases them.
struct Parked: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List, show and release parked payments on a running server.",
    discussion: """
      The server parks a payment (status Failed) when the provider's response cannot be understood, or when the payment \
      keeps failing while others succeed. A released payment is retried with the same idempotency key.
      """,
    subcommands: [List.self, Show.self, Release.self])

  struct Options: ParsableArguments {
    @Option(help: "The server's address.")
    var url = "http://127.0.0.1:8080"

    @OptionGroup(title: "TLS") var tls: ClientTLSOptions

    func validate() throws {
      try checkURL(url, of: "--url")
      try tls.checkFit(url)
    }

    /// Not an argument: every user of the machine can read a process's arguments.
    var key: String? { ProcessInfo.processInfo.environment["REGISPAY_KEY"] }

    /// Runs `work` on the server. If it fails, prints one line and ends the process.
    func withServer(_ work: (ServerClient) async throws -> Void) async {
      tls.checkFiles()
      do {
        let server = try ServerClient(url: url, key: key, tls: tls.clientTLS)
        defer { server.close() }
        try await work(server)
      } catch {
        fail("\(url): \(error)")
      }
    }
  }

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "List parked payments, one a line: id, amount, currency, step, last change, reason.",
      discussion: "The environment variable REGISPAY_KEY, if set, is sent as the API key.")

    @OptionGroup var options: Options

    func run() async throws {
      await options.withServer { server in
        try await Parked.forEach(server) { payment in
          let text = ["paymentId", "amount", "currency", "step", "updatedAt", "reason"].map { name in
            Parked.text(payment[name] ?? payment["failure"]?[name])
          }
          print(text.joined(separator: "  "))
        }
      }
    }
  }

  struct Show: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Print a payment and its events as JSON.")

    @OptionGroup var options: Options

    @Argument(help: "The payment's id.")
    var id: String

    func validate() throws { _ = try Parked.checked(id) }

    func run() async throws {
      await options.withServer { server in
        let path = "/api/v1/payments/\(try Parked.checked(id))"
        let (payment, events) = (try await server.get(path), try await server.get(path + "/events"))
        let both: JSONValue = ["payment": payment, "events": events["events"] ?? .array([])]
        print(Parked.printable(json: String(decoding: both.bytes, as: UTF8.self)))
      }
    }
  }

  struct Release: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Release parked payments: the server retries them.",
      discussion:
        "A payment that the server refuses to release stops no other; the command then ends with exit code 1. With --all, one "
        + "that is parked no more, since somebody else has released it, is no failure.")

    @OptionGroup var options: Options

    @Argument(help: "The payments' ids.")
    var ids: [String] = []

    @Flag(help: "Release all payments that are parked now.")
    var all = false

    func validate() throws {
      guard ids.isEmpty == all else { throw ValidationError("name one or more payments, or give --all") }
      _ = try ids.map(Parked.checked)
    }

    func run() async throws {
      await options.withServer { server in
        var released = try ids.map(Parked.checked)
        if all { try await Parked.forEach(server) { released.append(Parked.text($0["paymentId"])) } }
        var refusedCount = 0
        for id in released where try await !release(id, server) { refusedCount += 1 }
        if refusedCount > 0 { fail("\(refusedCount) of \(released.count) payments were not released") }
      }
    }

    /// Releases a payment. Prints what became of it; false if the server refuses.
    private func release(_ id: String, _ server: ServerClient) async throws -> Bool {
      do throws(ServerClientError) {
        let key = "release-\(UUID().uuidString)"
        let payment = try await server.post("/api/v1/payments/\(id)/retry", idempotencyKey: key)
        print("\(id)  \(Parked.text(payment["status"]))")
        return true
      } catch {
        guard case .refused(let status, _) = error else { throw error }
        if all, status == 409 {
          let now = try await server.get("/api/v1/payments/\(id)")["status"]?.text
          if let now, now != PaymentStatus.failed.rawValue {
            print("\(id)  \(now), parked no more")
            return true
          }
        }
        LogOutput.standardError.write("regispay: \(id): \(error)\n")
        return false
      }
    }
  }

  /// Calls `body` for every payment with the status, page by page. While the server rebuilds its list of payments, waits: a part of
  /// the list would look like all of it.
  static func forEach(
    _ server: ServerClient, status: PaymentStatus = .failed, _ body: (JSONValue) async throws -> Void
  ) async throws {
    var after: String?
    var isWaiting = false
    var pages = PageCycle()
    repeat {
      let path = "/api/v1/payments?status=\(status.rawValue)&limit=200" + (after.map { "&after=\($0)" } ?? "")
      let page = try await server.get(path)
      if page["complete"] == .bool(false) {
        if !isWaiting {
          LogOutput.standardError.write("regispay: waiting: the server rebuilds its list of payments\n")
        }
        isWaiting = true
        try await Task.sleep(for: .milliseconds(500))
        continue
      }
      isWaiting = false
      if case .array(let payments) = page["payments"] {
        for payment in payments { try await body(payment) }
      }
      after = page["next"]?.text
      if let after { try pages.note(after) }
    } while isWaiting || after != nil
  }

  /// Notices that a list goes in a circle: one that a wrong server or proxy responds with would never end. Keeps one page's name, by
  /// Brent's algorithm, and notices a circle after at most about three times its pages and those before it.
  private struct PageCycle {
    private var kept: String?
    private var stepsLeft = 0
    private var steps = 1

    mutating func note(_ next: String) throws(ServerClientError) {
      if next == kept { throw .endlessList(next: next) }
      guard stepsLeft == 0 else {
        stepsLeft -= 1
        return
      }
      (kept, stepsLeft) = (next, steps)
      steps *= 2
    }
  }

  static func text(_ value: JSONValue?) -> String {
    switch value {
    case .string(let text), .number(let text): printable(text)
    case nil, .null: "-"
    case let value?: String(decoding: value.bytes, as: UTF8.self)
    }
  }

  /// Escapes control characters as `\u{1B}`, so that a PSP's text stays on its line and cannot control the terminal.
  private static func printable(_ text: String) -> String {
    text.unicodeScalars.reduce(into: "") { line, scalar in
      if isUnprintable(scalar) {
        line += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}"
      } else {
        line.unicodeScalars.append(scalar)
      }
    }
  }

  /// JSON with such characters escaped as `\u001B`. Compact JSON has them only in strings.
  private static func printable(json: String) -> String {
    json.unicodeScalars.reduce(into: "") { text, scalar in
      guard isUnprintable(scalar) else { return text.unicodeScalars.append(scalar) }
      for unit in String(scalar).utf16 {
        let digits = String(unit, radix: 16, uppercase: true)
        text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      }
    }
  }

  private static func isUnprintable(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator: true
    default: false
    }
  }

  /// Checks an id before it becomes part of a path.
  static func checked(_ id: String) throws -> String {
    guard let id = PaymentID(id) else { throw ValidationError("\(id) is not a payment's id; the id is a UUID") }
    return id.description
  }
}
