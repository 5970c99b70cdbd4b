import Foundation

/// Whether the server can listen on its addresses, or does already.
struct PortCheck: Check {
  struct Address: Sendable, Hashable {
    var host: String
    var port: Int
    /// The option that names it.
    var option: String
    var isTLS: Bool

    var shown: String { "\(ListenAddress.bracketed(host)):\(port)" }
  }

  let name = CheckName.port
  let addresses: [Address]
  let directory: String

  func run() -> [Finding] { addresses.map(finding) }

  private func finding(_ address: Address) -> Finding {
    guard address.port != 0 else {
      return .ok(name, "\(address.option) 0: the system chooses a free port at the start")
    }
    let socket: ProbedAddress
    do throws(ProbedAddress.Failure) {
      socket = try ProbedAddress(host: address.host, port: address.port)
    } catch {
      return .problem(
        name, "can't find the address of \(address.host): \(error.reason)",
        advice:
          "Correct \(address.option == "--port" ? "--host" : address.option), or let the machine's name service know it."
      )
    }
    switch socket.bindError() {
    case 0: return .ok(name, "\(address.shown) is free")
    case EADDRINUSE: return inUse(address)
    case EACCES, EPERM:
      return .problem(
        name, "user \(geteuid()) may not listen on \(address.shown)",
        advice:
          "Choose a port from 1024 on with \(address.option), or give the service the capability CAP_NET_BIND_SERVICE.")
    case EADDRNOTAVAIL:
      return .problem(
        name, "\(address.host) is no address of this machine",
        advice: "Name one of its addresses (ip address), or 0.0.0.0 for all of them.")
    case let code:
      return .problem(
        name, "can't listen on \(address.shown): \(Shown.error(code))",
        advice: "Choose another address with --host and \(address.option).")
    }
  }

  private func inUse(_ address: Address) -> Finding {
    switch PortHolder(port: address.port, directory: DataPlace(directory).path) {
    case .server(let process): return ownServer(address, process)
    case .manager(let process): return managed(address, process)
    case .other(let process):
      guard AliveProbe.isSilent(host: address.host, port: address.port) else {
        return .problem(name, "\(address.shown) is in use by \(process)", advice: other(address))
      }
      return .warning(
        name, "\(address.shown) is held by \(process), which does not respond there",
        advice:
          "That is right for a supervisor that starts the server with this socket (LISTEN_FDS, docs/INSTALL.md, Upgrade)."
          + " Otherwise the server does not start: \(lowercased(other(address)))")
    case .unknown(let isRoots):
      let isRegisPay = response(address) == AliveProbe.healthy ? ", which responds as RegisPay does" : ""
      if isRoots, let unit = SocketUnit.listening(on: address.port), unit.isForRegisPay {
        return .ok(
          name,
          "\(address.shown) is in use by a process of root\(isRegisPay); \(unit.name) has systemd hold it for the server"
        )
      }
      return .problem(
        name, "\(address.shown) is in use by a process that this user can't see\(isRegisPay)",
        advice: isRegisPay.isEmpty
          ? other(address)
          : "If it is this directory's server, run this command as its user or as root, to be sure; otherwise "
            + lowercased(other(address)))
    }
  }

  private func ownServer(_ address: Address, _ process: String) -> Finding {
    let shown = "\(address.shown) is in use by this directory's server, \(process)"
    guard !address.isTLS else { return .ok(name, shown) }
    guard response(address) == AliveProbe.healthy else {
      return .problem(
        name, "\(shown), and /alive does not respond",
        advice: "Look at the server's log and at what it waits for; restart it if it does not recover.")
    }
    return .ok(name, "\(shown), and it responds")
  }

  /// systemd holds the socket, and no service serves it now.
  private func managed(_ address: Address, _ process: String) -> Finding {
    let unit = SocketUnit.listening(on: address.port)
    let shown = "\(address.shown) is held by \(process)" + (unit.map { ", by its unit \($0.name)" } ?? "")
    if unit?.isForRegisPay == true {
      return .ok(name, "\(shown): it starts the server with this socket, and connections wait meanwhile")
    }
    return .warning(
      name, shown,
      advice:
        "That is right if it starts the server with this socket (docs/INSTALL.md, Upgrade). Otherwise the server does not"
        + " start: stop that unit, or choose another port with \(address.option).")
  }

  private func response(_ address: Address) -> String? {
    address.isTLS ? nil : AliveProbe.response(host: address.host, port: address.port)
  }

  private func other(_ address: Address) -> String {
    "Stop that program, or choose another port with \(address.option)."
  }

  private func lowercased(_ sentence: String) -> String { sentence.prefix(1).lowercased() + sentence.dropFirst() }
}
