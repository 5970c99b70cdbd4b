import ArgumentParser
import Foundation
import RegisPay

/// `regispay unknown`: steps that may or may not have been carried out, until a person says which.
struct Unknown: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "List payments with a step whose outcome is unknown, and say what happened, on a running server.",
    discussion: """
      A call to the PSP may have been carried out, and no answer that decides is to be had: nothing is charged, refunded or \
      tried again for the payment. Look at the PSP what became of the step, and resolve it.
      """,
    subcommands: [List.self, Resolve.self])

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "One line for each payment: id, amount, step, refund, since when, the PSP's reference, and why.",
      discussion: """
        A payment with several unknown refunds has one line, for the first of them. The environment variable REGISPAY_KEY \
        is sent as the API key, if it is set.
        """)

    @OptionGroup var options: Parked.Options

    func run() async throws {
      await options.withServer { server in
        try await Parked.forEach(server, status: .outcomeUnknown) { payment in
          let names = ["paymentId", "amount", "currency", "step", "refund", "updatedAt", "paymentReference", "reason"]
          print(names.map { Parked.text(payment[$0] ?? payment["unknown"]?[$0]) }.joined(separator: "  "))
        }
      }
    }
  }

  struct Resolve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Say whether a step happened.",
      discussion: """
        --happened goes on as if the PSP had said so; a creation then needs --reference. --did-not-happen ends a creation or \
        a settlement as Declined, frees a refund's amount, and leaves a cancellation or a notification as Failed, to be \
        released. The server doesn't ask the PSP: what is said here counts.
        """)

    @OptionGroup var options: Parked.Options

    @Argument(help: "The payment's id.")
    var id: String

    @Option(help: "The step: create, settle, cancel, refund or notify.")
    var step: String

    @Option(help: "The refund's number, with step refund.")
    var refund: Int?

    @Flag(help: "The PSP has carried it out.")
    var happened = false

    @Flag(help: "The PSP has not carried it out, and never will.")
    var didNotHappen = false

    @Option(help: "The PSP's reference of the payment, for a creation that happened.")
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
