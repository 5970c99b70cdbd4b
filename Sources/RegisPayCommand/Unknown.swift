import ArgumentParser
import Foundation
import RegisPay

/// `regispay unknown`: steps whose outcome is unknown until a person resolves them.
struct Unknown: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List and resolve steps with an unknown outcome on a running server.",
    discussion: """
      The PSP may have carried out a call, and no response decides whether it did. Until a person decides, the server \
      charges, refunds and retries nothing for the payment. Find out at the PSP what happened, then resolve the step.
      """,
    subcommands: [List.self, Resolve.self])

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: """
        List steps with an unknown outcome, one a line: the payment's id, amount, currency, step, refund, last \
        change, the PSP's reference, reason.
        """,
      discussion: "The environment variable REGISPAY_KEY, if set, is sent as the API key.")

    @OptionGroup var options: Parked.Options

    func run() async throws {
      await options.withServer { server in
        try await Parked.forEach(server, status: .outcomeUnknown) { payment in
          for step in try await Self.steps(of: payment, server) {
            let names = [
              "paymentId", "amount", "currency", "step", "refund", "updatedAt", "paymentReference", "reason",
            ]
            print(names.map { Parked.text(payment[$0] ?? step?[$0]) }.joined(separator: "  "))
          }
        }
      }
    }

    /// The unknown steps of a listed payment. The list holds the first one, and the number of further ones.
    private static func steps(of payment: JSONValue, _ server: ServerClient) async throws -> [JSONValue?] {
      guard payment["unknown"]?["further"] != nil, let id = payment["paymentId"]?.text else {
        return [payment["unknown"]]
      }
      let details = try await server.get("/api/v1/payments/\(id)")
      // A person may have resolved them since.
      guard case .array(let steps)? = details["unknownSteps"] else { return [] }
      return steps
    }
  }

  struct Resolve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Record whether a step happened.",
      discussion: """
        --happened continues as if the PSP had confirmed the step; a creation then needs --reference. --did-not-happen ends \
        a creation or a settlement as Declined, makes a refund's amount available again, and parks a cancellation or a \
        notification as Failed until it is released. The server does not check this with the PSP.
        """)

    @OptionGroup var options: Parked.Options

    @Argument(help: "The payment's id.")
    var id: String

    @Option(help: "The step: create, settle, cancel, refund or notify.")
    var step: String

    @Option(help: "The refund's number; only with --step refund.")
    var refund: Int?

    @Flag(help: "The PSP has carried out the step.")
    var happened = false

    @Flag(help: "The PSP has not carried out the step and never will.")
    var didNotHappen = false

    @Option(help: "The PSP's reference of the payment; required for a creation that happened.")
    var reference: String?

    func validate() throws {
      _ = try Parked.checked(id)
      guard happened != didNotHappen else { throw ValidationError("give --happened or --did-not-happen") }
    }

    func run() async throws {
      await options.withServer { server in
        var body: [JSONValue.Member] = [
          .init("step", .string(step)), .init("outcome", happened ? "happened" : "did-not-happen"),
        ]
        if let refund { body.append(.init("refund", .integer(refund))) }
        if let reference { body.append(.init("reference", .string(reference))) }
        let id = try Parked.checked(id)
        let payment = try await server.post(
          "/api/v1/payments/\(id)/resolve", idempotencyKey: "resolve-\(UUID().uuidString)", body: .object(body))
        print("\(id)  \(Parked.text(payment["status"]))")
      }
    }
  }
}
