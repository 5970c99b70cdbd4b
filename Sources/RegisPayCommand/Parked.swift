import ArgumentParser
import Foundation
import RegisPay

/// `regispay parked`: payments that were given up and wait for a person.
struct Parked: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List, look at and release payments that were given up, on a running server.",
    discussion: """
      A payment is given up when the other side's answer can't be understood, or when it fails again and again while \
      others go through. Released, it is tried again, under the same idempotency key.
      """,
    subcommands: [List.self, Show.self, Release.self])

  struct Options: ParsableArguments {
    @Option(help: "The server's address.")
    var url = "http://127.0.0.1:8080"

    func validate() throws { try checkURL(url, of: "--url") }

    /// Not an argument: those can be read by everybody on the machine.
    var key: String? { ProcessInfo.processInfo.environment["REGISPAY_KEY"] }

    /// Runs `work` on the server, and ends the process with one line when that fails.
    func withServer(_ work: (ServerClient) async throws -> Void) async {
      do {
        let server = try ServerClient(url: url, key: key)
        defer { server.close() }
        try await work(server)
      } catch {
        fail("\(url): \(error)")
      }
    }
  }

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "One line for each: id, amount, what was given up, since when, and why.",
      discussion: "The environment variable REGISPAY_KEY is sent as the API key, if it is set.")

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
    static let configuration = CommandConfiguration(abstract: "A payment and its events, as JSON.")

    @OptionGroup var options: Options

    @Argument(help: "The payment's id.")
    var id: String

    func validate() throws { _ = try Parked.checked(id) }

    func run() async throws {
      await options.withServer { server in
        let path = "/api/v1/payments/\(try Parked.checked(id))"
        let (payment, events) = (try await server.get(path), try await server.get(path + "/events"))
        let both: JSONValue = ["payment": payment, "events": events["events"] ?? .array([])]
        print(String(decoding: both.bytes, as: UTF8.self))
      }
    }
  }

  struct Release: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Have payments tried again.")

    @OptionGroup var options: Options

    @Argument(help: "The payments' ids.")
    var ids: [String] = []

    @Flag(help: "All that are parked now.")
    var all = false

    func validate() throws {
      guard ids.isEmpty == all else { throw ValidationError("name payments, or give --all") }
      _ = try ids.map(Parked.checked)
    }

    func run() async throws {
      await options.withServer { server in
        var released = try ids.map(Parked.checked)
        if all { try await Parked.forEach(server) { released.append(Parked.text($0["paymentId"])) } }
        for id in released {
          let key = "release-\(UUID().uuidString)"
          let payment = try await server.post("/api/v1/payments/\(id)/retry", idempotencyKey: key)
          print("\(id)  \(Parked.text(payment["status"]))")
        }
      }
    }
  }

  /// Every payment that is parked, page by page.
  static func forEach(
    _ server: ServerClient, status: PaymentStatus = .failed, _ body: (JSONValue) -> Void
  ) async throws {
    var after: String?
    repeat {
      let path = "/api/v1/payments?status=\(status.rawValue)&limit=200" + (after.map { "&after=\($0)" } ?? "")
      let page = try await server.get(path)
      if case .array(let payments) = page["payments"] { payments.forEach(body) }
      after = page["next"]?.text
    } while after != nil
  }

  static func text(_ value: JSONValue?) -> String {
    switch value {
    case .string(let text), .number(let text): printable(text)
    case nil, .null: "-"
    case let value?: String(decoding: value.bytes, as: UTF8.self)
    }
  }

  /// A PSP's words stay in their line, and can't steer the terminal: control characters as `\u{1B}`.
  private static func printable(_ text: String) -> String {
    text.unicodeScalars.reduce(into: "") { line, scalar in
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator:
        line += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}"
      default: line.unicodeScalars.append(scalar)
      }
    }
  }

  /// An id goes into a path, and must be one.
  static func checked(_ id: String) throws -> String {
    guard let id = PaymentID(id) else { throw ValidationError("\(id) is no payment's id, which is a UUID") }
    return id.description
  }
}
