import ArgumentParser
import Foundation
import RegisPay

/// `regispay keys`: creates, lists and revokes API keys, also while a server runs on the directory.
struct Keys: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Create, list and revoke API keys.",
    discussion: "A server that runs on the directory applies a change within about a second. Once a key exists, every "
      + "request needs one, except for the page itself, /openapi.json, /health and /alive.",
    subcommands: [Create.self, List.self, Revoke.self])

  struct Directory: ParsableArguments {
    @Option(help: ArgumentHelp("The server's data directory.", valueName: "directory"))
    var dir = "./data"

    func store() -> KeyStore {
      do {
        return try KeyStore.open(dir)
      } catch {
        fail("\(error)")
      }
    }
  }

  struct Create: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Create a key and print it. The key cannot be shown again.")

    @OptionGroup var directory: Directory

    @Option(help: "The key's name, such as the client that uses it.")
    var name: String

    @Option(
      help: ArgumentHelp(
        "The key's owner; the default is the key's name.",
        discussion:
          "Keys of one owner share idempotency keys: a request that a client sends with its old key, and repeats with "
          + "the key that replaces it, takes effect once."))
    var owner: String?

    @Option(help: "read, write or operate; repeat the option for several. No scope includes another.")
    var scope: [KeyScope]

    @Option(help: "How long the key is valid, such as 90d, 12h, 30m or 45s; the default is until it is revoked.")
    var expires: Lifetime?

    func validate() throws {
      for (option, text) in [("--name", name), ("--owner", owner ?? name)] {
        guard APIKey.isName(text) else { throw ValidationError("\(option) must be \(APIKey.nameRule)") }
      }
      guard !scope.isEmpty else { throw ValidationError("a key needs at least one --scope") }
    }

    func run() {
      do {
        let key = try directory.store().create(
          name: name, owner: owner, scopes: Set(scope), lifetimeSeconds: expires?.seconds)
        print(key.text)
      } catch {
        fail("\(error)")
      }
    }
  }

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "List all keys ever created: id, name, scopes, state, created, last used, owner; separated by tabs.")

    @OptionGroup var directory: Directory

    func run() {
      do {
        let now = Int64(Date().timeIntervalSince1970)
        for key in try KeyStore.keys(in: directory.dir) {
          let scopes = KeyScope.allCases.filter(key.scopes.contains).map(\.rawValue).joined(separator: ",")
          let state =
            if let revoked = key.revokedSeconds {
              "revoked \(time(revoked))"
            } else if let expiry = key.expirySeconds {
              (now < expiry ? "expires " : "expired ") + time(expiry)
            } else {
              "valid"
            }
          let fields = [
            key.id, key.name, scopes, state, time(key.createdSeconds), key.lastUsedSeconds.map(time) ?? "never",
            key.owner,
          ]
          print(fields.joined(separator: "\t"))
        }
      } catch {
        fail("\(error)")
      }
    }

    private func time(_ seconds: Int64) -> String {
      Date(timeIntervalSince1970: Double(seconds)).formatted(.iso8601)
    }
  }

  struct Revoke: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Revoke a key. A revoked key cannot be restored.")

    @OptionGroup var directory: Directory

    @Argument(help: "The key's id: the 12 digits after rp_.")
    var id: String

    func run() {
      let isKnown: Bool
      do {
        // A missing file is not created: an empty one would look as if there had been no keys.
        let keys = try KeyStore.keys(in: directory.dir)
        isKnown = try keys.contains { $0.id == id } && directory.store().revoke(id)
      } catch {
        fail("\(error)")
      }
      // The argument is not printed: it may be a whole key.
      if !isKnown { fail("there is no key with this id; regispay keys list shows the ids") }
    }
  }
}

/// A number with a unit.
struct Lifetime: ExpressibleByArgument {
  var seconds: Int64

  init(seconds: Int64) { self.seconds = seconds }

  init?(argument: String) {
    let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400]
    guard let unit = argument.last.flatMap({ units[$0] }), let number = Int64(argument.dropLast()),
      (1...1_000_000).contains(number)
    else { return nil }
    seconds = number * unit
  }

  /// As it is written.
  var defaultValueDescription: String { seconds % 60 == 0 ? "\(seconds / 60)m" : "\(seconds)s" }
}

extension KeyScope: ExpressibleByArgument {}
