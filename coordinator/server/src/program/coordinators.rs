//! Commands about the coordinators themselves, and about the roster that names them.

use firn_transport::load_identity;
use firn_wire::{
    AdminReply, AdminRequest, Descriptor, Identity, MemberChange, MemberList, MemberStep, Roster,
    RosterDraft, Signed,
};

use super::Failure;
use super::arguments::{MemberAction, RosterAction};
use super::desk::{Desk, misfit};

/// Carries out `action` and prints what came of it.
pub(crate) async fn member(action: &MemberAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    let change = match action {
        MemberAction::List => return list(desk, json).await,
        MemberAction::Remove { id, dry_run: true } => {
            println!("would remove coordinator {id}");
            return Ok(());
        }
        MemberAction::Add { member } => MemberChange::Add { id: member.id, address: member.address.clone() },
        MemberAction::Promote { id } => MemberChange::Promote { id: *id },
        MemberAction::Remove { id, .. } => MemberChange::Remove { id: *id },
        MemberAction::Replace { old, new } => {
            MemberChange::Replace { old: *old, new: new.id, address: new.address.clone() }
        }
    };
    let request = AdminRequest::ChangeMember(change.clone());
    let AdminReply::MemberChanged(step) = desk.ask(request).await? else {
        return Err(misfit());
    };
    let name = change.subject().short();
    let next = match (&change, step) {
        (MemberChange::Replace { .. }, MemberStep::Added) => {
            "; sign the roster that names it, and call this again when it has caught up"
        }
        (_, MemberStep::Added) => "; sign the roster that names it, and promote it when it has caught up",
        _ => "",
    };
    match step {
        MemberStep::Added => println!("coordinator {name} catches up and has no vote yet{next}"),
        MemberStep::Promoted => println!("coordinator {name} has a vote"),
        MemberStep::Removed => println!("coordinator {name} takes part no more"),
        MemberStep::Replaced => println!("coordinator {name} has the vote of the one it replaces"),
    }
    // The change is complete when this says nothing more. A coordinator that removed itself does not answer.
    if let Ok(MemberList { gap, .. }) = ask_list(desk).await
        && !gap.is_closed()
    {
        println!("{gap}");
    }
    Ok(())
}

async fn ask_list(desk: &Desk) -> Result<MemberList, Failure> {
    match desk.ask(AdminRequest::Members).await? {
        AdminReply::Members(list) => Ok(list),
        _ => Err(misfit()),
    }
}

async fn list(desk: &Desk, json: bool) -> Result<(), Failure> {
    let MemberList { term, members, gap } = ask_list(desk).await?;
    if !json {
        println!("term {term}, {gap}");
    }
    for member in members {
        let lag = member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        let role = match (member.leader, member.votes) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let in_roster = !gap.lacks.contains(&member.id);
        match json {
            true => println!(
                "{}",
                serde_json::json!({
                    "id": member.id.to_string(), "address": member.address, "online": member.online, "role": role,
                    "leader": member.leader, "votes": member.votes, "lag": member.lag, "term": term,
                    "in_roster": in_roster, "roster_generation": gap.generation,
                })
            ),
            false => println!(
                "{}  {:<22}  {role:<8}  {:<7}  lag {lag}{}",
                member.id,
                member.address,
                if member.online { "online" } else { "offline" },
                if in_roster { "" } else { "  not in the roster" },
            ),
        }
    }
    Ok(())
}

/// Carries out `action` and prints what came of it.
pub(crate) async fn roster(action: &RosterAction, desk: &Desk) -> Result<(), Failure> {
    match action {
        RosterAction::Draft => print!("{}", RosterDraft(ask_draft(desk).await?)),
        RosterAction::Sign { archive_key, draft } => {
            let key = match archive_key {
                Some(key) => key.clone(),
                None => desk.directory("roster sign without --archive-key")?.join("archive.key"),
            };
            let key = load_identity(&key)
                .map_err(|error| format!("{error}: name the archive key with --archive-key"))?;
            match draft {
                Some(draft) => {
                    let RosterDraft(roster) = std::fs::read_to_string(draft)?.parse()?;
                    print!("{}", sign(&key, &roster)?);
                }
                None => adopt(desk, sign(&key, &ask_draft(desk).await?)?).await?,
            }
        }
        RosterAction::Adopt { file } => adopt(desk, std::fs::read_to_string(file)?.parse()?).await?,
    }
    Ok(())
}

async fn ask_draft(desk: &Desk) -> Result<Roster, Failure> {
    match desk.ask(AdminRequest::DraftRoster).await? {
        AdminReply::RosterDraft(roster) => Ok(roster),
        _ => Err(misfit()),
    }
}

/// Signs `roster`, after it was shown what that is.
fn sign(key: &Identity, roster: &Roster) -> Result<Descriptor, Failure> {
    if key.public() != roster.archive.into() {
        return Err(format!("this is the key of archive {}, not of {}", key.public(), roster.archive).into());
    }
    eprintln!("signing roster generation {} of archive {}", roster.generation, roster.archive.short());
    for entry in &roster.coordinators {
        eprintln!("  coordinator {} at {}", entry.id, entry.address);
    }
    for id in &roster.retired {
        eprintln!("  retired     {id}");
    }
    Ok(Descriptor { archive: roster.archive, roster: Signed::seal(key, roster.archive, roster) })
}

async fn adopt(desk: &Desk, descriptor: Descriptor) -> Result<(), Failure> {
    let generation = descriptor.verify()?.roster().generation;
    match desk.ask(AdminRequest::AdoptRoster(descriptor)).await? {
        AdminReply::RosterAdopted { kept, voters } => {
            println!(
                "roster generation {generation} is in force: {kept} of {voters} voting coordinators keep it"
            );
            Ok(())
        }
        _ => Err(misfit()),
    }
}
